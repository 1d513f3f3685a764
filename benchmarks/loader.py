"""How quickly batches of 8 x 4096 come out of one core: ours beside a bare gather and beside peers, in one run.

    python -m benchmarks.loader DATASET [--rounds 5]

The yardstick is what nobody can beat: rows at random places of a uint16 memory map, copied to int64. Every tool runs in
a process of its own, pinned to one core, with its files read just before; rounds are interleaved, and the ratio is to
the yardstick runs just before and after. Peers that are not installed are named and left out (litdata, grain).

    ids            input_ids alone, shuffled and mixed over all sources of DATASET, from the warm block cache
    full           with labels, positions and document numbers
    not shuffled   as `full`, in the order stored
    first epoch    as `full`, with an empty cache: compressed shards, every block verified
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROWS, TOKENS = 8, 4096
BATCHES = 1000
FULL = ("input_ids", "labels", "position_ids", "seq_idx")


def timed(batches: Iterator[Any], count: int = BATCHES) -> float:
    """Million tokens a second."""
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * ROWS * TOKENS / (time.perf_counter() - began) / 1e6


def read(path: Path) -> None:
    """Into the page cache."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                while opened.read(1 << 22):
                    pass


def gather(memmap: Path) -> Iterator[np.ndarray]:
    read(memmap)
    tokens = np.memmap(memmap, np.uint16, "r")
    dice = np.random.default_rng(0)
    while True:
        out = np.empty((ROWS, TOKENS), np.int64)
        for row, start in zip(out, dice.integers(0, len(tokens) - TOKENS, ROWS), strict=True):
            row[:] = tokens[start : start + TOKENS]
        yield out


def run_gather(work: Path, data: str) -> float:
    batches = gather(work / "tokens.bin")
    timed(batches, 300)
    return timed(batches)


def ours(work: Path, data: str, fields: tuple[str, ...], shuffle: bool = True, cold: bool = False) -> float:
    from loader import build_loader

    cache = work / ("cold" if cold else f"warm-{shuffle}")
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    loader = build_loader(data, None, TOKENS, ROWS, seed=1, num_workers=0, fields=fields, shuffle=shuffle, cache=cache)
    start = loader.state_dict()
    total = sum(loader.order.source(name).stream.epoch_tokens for name in loader.plan.sources)
    count = total // (ROWS * TOKENS) - 1 if cold else BATCHES  # a whole epoch: its first rows touch most of its blocks
    read(Path(data))
    if not cold:
        for _ in range(count):
            next(loader)
        loader.load_state_dict(start)
        read(cache)
    next(loader)
    return timed(loader, count - 1)


def run_ids(work: Path, data: str) -> float:
    return ours(work, data, ("input_ids",))


def run_full(work: Path, data: str) -> float:
    return ours(work, data, FULL)


def run_unshuffled(work: Path, data: str) -> float:
    return ours(work, data, FULL, shuffle=False)


def run_first_epoch(work: Path, data: str) -> float:
    return ours(work, data, FULL, cold=True)


def run_litdata(work: Path, data: str) -> float:
    """One source, TokensLoader, shuffled, StreamingDataLoader."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    read(work / "litdata")
    dataset = StreamingDataset(str(work / "litdata"), item_loader=TokensLoader(TOKENS), shuffle=True, drop_last=True)
    batches = iter(StreamingDataLoader(dataset, batch_size=ROWS, num_workers=0))
    timed(batches, 300)
    return timed(batches)


def run_grain(work: Path, data: str) -> float:
    """MapDataset over the memory map, shuffled, batched, no threads."""
    import grain

    read(work / "tokens.bin")
    tokens = np.memmap(work / "tokens.bin", np.uint16, "r")
    rows = grain.MapDataset.range(len(tokens) // TOKENS).shuffle(seed=1)
    taken = rows.map(lambda n: tokens[n * TOKENS : (n + 1) * TOKENS].astype(np.int64)).batch(ROWS)
    batches = iter(taken.to_iter_dataset(grain.ReadOptions(num_threads=0)))
    timed(batches, 300)
    return timed(batches)


TOOLS: dict[str, Callable[[Path, str], float]] = {
    "bare gather": run_gather,
    "ours, ids": run_ids,
    "ours, full": run_full,
    "ours, full, not shuffled": run_unshuffled,
    "ours, full, first epoch": run_first_epoch,
    "litdata, ids, one source": run_litdata,
    "grain, ids, memory map": run_grain,
}


def prepare(work: Path, data: str) -> None:
    """The tokens of the dataset in the peers' forms."""
    from bamba_data.dataset import open_dataset
    from bamba_data.shard import ShardReader

    dataset = open_dataset(data)
    with (work / "tokens.bin").open("wb") as out:
        for path in dataset.shards["path"]:
            reader = ShardReader(f"{data}/{path}", path)
            for block in range(reader.blocks):
                out.write(reader.tokens(block).ids.astype(np.uint16).tobytes())
    try:
        import litdata
    except ImportError:
        return
    litdata.optimize(
        fn=pieces,
        inputs=[str(work / "tokens.bin")],
        output_dir=str(work / "litdata"),
        chunk_bytes="64MB",
        item_loader=litdata.TokensLoader(TOKENS),
        num_workers=1,
    )


def pieces(path: str) -> Iterator[Any]:
    """The tokens as litdata wants them."""
    import torch

    tokens = np.memmap(path, np.uint16, "r")
    for start in range(0, len(tokens), 65536):
        yield torch.from_numpy(tokens[start : start + 65536].astype(np.int32))


def shot(tool: str, work: Path, data: str, core: int) -> float | str:
    command = [sys.executable, "-m", "benchmarks.loader", data, "--one", tool, "--work", str(work)]
    pinned = ["taskset", "-c", str(core), *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(pinned, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:120]
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="a published dataset on a local disk, of at least 20 M tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--one", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.one:
        print(TOOLS[arguments.one](arguments.work, arguments.data))
        return
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
        work = Path(folder)
        prepare(work, arguments.data)
        ratios: dict[str, list[float]] = {name: [] for name in TOOLS if name != "bare gather"}
        speeds: dict[str, list[float]] = {name: [] for name in TOOLS}
        for _ in range(arguments.rounds):
            for name in list(ratios):
                before = shot("bare gather", work, arguments.data, arguments.core)
                found = shot(name, work, arguments.data, arguments.core)
                after = shot("bare gather", work, arguments.data, arguments.core)
                if isinstance(found, str) or isinstance(before, str) or isinstance(after, str):
                    print(f"{name}: left out: {found}")
                    del ratios[name]
                    continue
                speeds[name].append(found)
                speeds["bare gather"] += [before, after]
                ratios[name].append(found / ((before + after) / 2))
    report(arguments, ratios, speeds)


def report(arguments: Any, ratios: dict[str, list[float]], speeds: dict[str, list[float]]) -> None:
    import importlib.metadata as packages

    from benchmarks.measure import machine

    versions = {}
    for name in ("torch", "numpy", "pyarrow", "litdata", "grain"):
        try:
            versions[name] = packages.version(name)
        except packages.PackageNotFoundError:
            versions[name] = "not installed"
    head = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}, {arguments.rounds} rounds, {versions}"
    print(head)
    print(f"{'':28s} {'M tokens/s':>22s} {'/ bare gather':>24s}")
    gathered = speeds["bare gather"]
    print(f"{'bare gather':28s} {statistics.median(gathered):8.0f} ({min(gathered):.0f}-{max(gathered):.0f})")
    for name, found in ratios.items():
        speed = speeds[name]
        print(
            f"{name:28s} {statistics.median(speed):8.0f} ({min(speed):.0f}-{max(speed):.0f})"
            f" {statistics.median(found):14.3f} ({min(found):.3f}-{max(found):.3f})"
        )
    arguments.results.mkdir(exist_ok=True)
    path = arguments.results / f"loader_{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps({"head": head, "ratios": ratios, "speeds": speeds}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
