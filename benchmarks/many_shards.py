"""What it takes to look at a dataset of many shards: each command as a user types it, its seconds, processor seconds
and largest memory, at several sizes, so that what grows can be read.

python -m benchmarks.many_shards [--shards 10000 100000] [--only verify sweep] [--folder FOLDER]

On a local disk. Of what is made (made_dataset.py) a shard is a name of one small file, so nothing here says how fast
bytes are read; benchmarks/verify_full.py does. A million shards need some 3 M inodes, 10 GB and half an hour. With
--folder what is made stays, and is taken again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bamba_data.format.layout import VERSIONS
from benchmarks.measure import machine

LOADER = """
from bamba.loader import OrderSpec, build_loader
order = OrderSpec(weights={{"lines": 1}}, row_tokens=64, batch_rows=8, seed=1)
batch = next(iter(build_loader({dataset!r}, order)))
print("the first batch is of", tuple(batch["input_ids"].shape))
"""


class Used(NamedTuple):
    """Of one command, and what it started: its exit code, seconds, processor seconds, MiB, and its last line."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    said: str


def used(argv: list[str]) -> Used:
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        with subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT) as running:
            _, status, usage = os.wait4(running.pid, 0)
            running.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(max(0, out.seek(0, os.SEEK_END) - 2000))
        lines = out.read().split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "")
    return Used(running.returncode, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said)


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Those that change the dataset come last."""
    dataset, recipe = str(folder / "dataset"), str(folder / "recipe.yaml")
    dropped = folder / "dropped.jsonl"
    dropped.write_text('{"file": "0000001.json.gz", "row": 0}\n')
    yield "show", ["show", dataset]
    yield "show --shards", ["show", dataset, "--shards"]
    yield "status", ["status", dataset]
    yield "diff", ["diff", dataset, dataset]
    yield "stats", ["stats", dataset]
    yield "page", ["page", dataset, "--out", str(folder / "page.html")]
    yield "sweep", ["sweep", dataset]
    yield "verify", ["verify", dataset]
    yield "verify --full", ["verify", dataset, "--full"]
    yield "plan", ["plan", recipe, "--out", dataset]
    yield "plan, first", ["plan", recipe, "--out", str(folder / f"planned-{time.time_ns()}")]
    yield "first batch", ["-c", LOADER.format(dataset=dataset)]
    yield "drop", ["drop", dataset, "--list", str(dropped)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as passing:
        for count in arguments.shards:
            folder = (arguments.folder or Path(passing)) / str(count)
            if not folder.exists():
                # Elsewhere, so that this process stays small: what it starts is told to have had its size, until it
                # execs.
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    pool.submit(_make, folder, count).result()
            print(f"{count:,} shards")
            for name, words in commands(folder):
                if arguments.only is None or name in arguments.only:
                    argv = words if words[0] == "-c" else ["-m", "pipelines.cli", *words]
                    one = used([sys.executable, *argv])
                    print(
                        f"  {name:14s} exit {one.code}  {one.seconds:7.2f} s  {one.cpu_seconds:7.2f} s of CPU  "
                        f"{one.peak_mib:6.0f} MiB   {one.said[:90]}",
                        flush=True,
                    )
            for version in (folder / "dataset" / VERSIONS).glob("*[2-9].json"):  # what `drop` published
                version.unlink()


def _make(folder: Path, count: int) -> None:
    from benchmarks.made_dataset import make

    make(folder, count)


if __name__ == "__main__":
    main()
