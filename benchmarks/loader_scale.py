"""The order at the real size of Dolma: 9 million blocks, 3 billion documents, synthetic counts, no tokens.

    python -m benchmarks.loader_scale [--blocks 9000000]

Times of a process, imports left out: the first of a host (it leaves orders of epochs behind), another one that starts,
and one that resumes at a far row; and the anonymous memory of each.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.format.shard import Tokens
from benchmarks.measure import machine
from loader.cache.mmap import map_file
from loader.collate import FIELDS
from loader.global_order import Order
from loader.order.plan import MixPlan
from loader.packing.segments import SegmentCache
from loader.reading import Share
from loader.row_reader import RowReader
from loader.sources.base import Candidates
from tests.loader.bamba import NAMES, WEIGHTS

NO = np.empty(0, np.int64)


@dataclass(frozen=True)
class Synthetic:
    """A source that has counts, mapped from files as those of a real index, and no tokens."""

    name: str
    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2")

    @property
    def candidates(self) -> Candidates:
        return Candidates(NO, NO, NO, np.empty(0, np.uint64))

    @property
    def identity(self) -> str:
        return f"synthetic/{self.name}/{len(self.tokens)}"

    def digest(self, block: int) -> bytes:
        return block.to_bytes(16, "little")

    def read(self, block: int) -> Tokens:
        raise NotImplementedError("there are no tokens")


def write(folder: Path, blocks: int) -> None:
    dice = np.random.default_rng(0)
    for name, weight in zip(NAMES, WEIGHTS, strict=True):
        count = max(1, blocks * weight // sum(WEIGHTS))
        dice.integers(250, 420, count).astype("<i8").tofile(folder / f"{name}.documents")
        dice.integers(262_144, 264_000, count).astype("<i8").tofile(folder / f"{name}.tokens")


def once(folder: Path, row: int) -> None:
    """Open the order and place the batch at `row`."""
    began = time.perf_counter()
    sources = {
        name: Synthetic(name, *(map_file(folder / f"{name}.{kind}").view("<i8") for kind in ("documents", "tokens")))
        for name in NAMES
    }
    weights = dict(zip(NAMES, WEIGHTS, strict=True))
    identities = {name: one.identity for name, one in sources.items()}
    plan = MixPlan.create(weights, identities, 384, seed=1, row_tokens=4096, before=[], after=[0])
    order = Order(plan, sources, folder / "cache")
    batch = plan.batch_of(row)
    assert batch is not None
    reader = RowReader(order, SegmentCache(None, 0), Share(3, 64), FIELDS)
    rows = reader._locate_from(batch)[batch.first_row].rows
    seconds = time.perf_counter() - began
    anonymous = int(re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) >> 10
    print(json.dumps([seconds, anonymous, len(rows)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=9_000_000)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--row", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        once(arguments.once, arguments.row)
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}  {arguments.blocks:,} blocks")
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
        write(Path(folder), arguments.blocks)
        for what, row in (("first process", 0), ("another", 0), ("resumes at row 50,000,000", 384 * 130_208)):
            command = [sys.executable, "-m", "benchmarks.loader_scale", "--once", folder, "--row", str(row)]
            seconds, anonymous, _ = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(f"{what:28s} {seconds:6.2f} s   {anonymous:5d} MiB anonymous")


if __name__ == "__main__":
    main()
