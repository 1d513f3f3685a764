"""How quickly batches of 8 x 4096 come out of one core: ours beside a bare gather and beside peers, in one run.

    python -m benchmarks.loader DATASET [--rounds 5] [--peers FOLDER]

The yardstick is what nobody can beat: rows at random places of a uint16 memory map, copied to int64. Every tool runs in
a process of its own, pinned to one core, with its files read just before; rounds are interleaved, and the ratio is to
the yardstick runs just before and after. Peers (loader_peers.py) that are not installed are named and left out.

    ids            input_ids alone, shuffled and mixed over all sources of DATASET, from the warm block cache
    full           with labels, positions and document numbers
    not shuffled   as `full`, in the order stored
    first epoch    with an empty cache: compressed shards, every block verified
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

from benchmarks.loader_peers import PEERS, ROWS, TOKENS, read

BATCHES = 1000
WARM_SECONDS = 1.0
FULL = ("input_ids", "labels", "position_ids", "seq_idx")


def timed(batches: Iterator[Any], count: int = BATCHES) -> float:
    """Million tokens a second."""
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * ROWS * TOKENS / (time.perf_counter() - began) / 1e6


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
    from loader import OrderSpec, Reading, build_loader

    cache = work / ("cold" if cold else f"warm-{shuffle}")
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    loader = build_loader(
        data,
        OrderSpec(row_tokens=TOKENS, batch_rows=ROWS, seed=1, shuffle=shuffle),
        Reading(num_workers=0, fields=fields, cache=cache),
    )
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


def run_first_epoch_ids(work: Path, data: str) -> float:
    return ours(work, data, ("input_ids",), cold=True)


OURS: dict[str, Callable[[Path, str], float]] = {
    "bare gather": run_gather,
    "ours, ids": run_ids,
    "ours, full": run_full,
    "ours, full, not shuffled": run_unshuffled,
    "ours, ids, first epoch": run_first_epoch_ids,
    "ours, full, first epoch": run_first_epoch,
}
TOOLS = [*OURS, *PEERS]


def run_peer(name: str, work: Path) -> float:
    """After 300 batches, or as many as a second gives; a slow one is timed over fewer than the others."""
    batches = PEERS[name].batches(work)
    began, warm = time.perf_counter(), 0
    while warm < 20 or (warm < 300 and time.perf_counter() - began < WARM_SECONDS):
        next(batches)
        warm += 1
    return timed(batches, BATCHES if warm == 300 else 2 * warm)


def prepare(work: Path, data: str) -> None:
    """The tokens of the dataset end to end, and the count of each document."""
    from bamba_data.format.dataset import open_dataset
    from bamba_data.format.shard import ShardReader

    dataset = open_dataset(data)
    counts = []
    with (work / "tokens.bin").open("wb") as out:
        for path in dataset.shards["path"]:
            reader = ShardReader(f"{data}/{path}", path)
            for block in range(reader.blocks):
                found = reader.tokens(block)
                out.write(found.ids.astype(np.uint16).tobytes())
                counts.append(found.counts)
    np.save(work / "counts.npy", np.concatenate(counts))


def shot(what: str, tool: str, arguments: Any, work: Path) -> float | str:
    """`what` is "time" or "prepare"; a speed, or the last line of what went wrong."""
    command = [sys.executable, "-m", "benchmarks.loader", arguments.data, f"--{what}", tool, "--work", str(work)]
    pinned = ["taskset", "-c", str(arguments.core), *command]
    folder = PEERS[tool].folder if tool in PEERS else ""
    paths = [str(arguments.peers / folder)] if arguments.peers and folder else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*paths, str(Path.cwd())])}
    done = subprocess.run(pinned, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:120]
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="a published dataset on a local disk, of at least 20 M tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--peers", type=Path, help="where peers are installed, a folder each: see loader_peers.py")
    parser.add_argument("--only", nargs="+", choices=TOOLS, metavar="TOOL", default=TOOLS)
    parser.add_argument("--time", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.prepare:
        PEERS[arguments.prepare].prepare(arguments.work)
        print(0)
        return
    if arguments.time:
        own = OURS.get(arguments.time)
        print(own(arguments.work, arguments.data) if own else run_peer(arguments.time, arguments.work))
        return
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
        work = Path(folder)
        prepare(work, arguments.data)
        ratios: dict[str, list[float]] = {name: [] for name in arguments.only if name != "bare gather"}
        speeds: dict[str, list[float]] = {name: [] for name in ["bare gather", *ratios]}
        for name in PEERS.keys() & ratios.keys():
            if isinstance(problem := shot("prepare", name, arguments, work), str):
                print(f"{name}: left out: {problem}")
                del ratios[name]
        for _ in range(arguments.rounds):
            for name in list(ratios):
                before = shot("time", "bare gather", arguments, work)
                found = shot("time", name, arguments, work)
                after = shot("time", "bare gather", arguments, work)
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

    versions = {name: packages.version(name) for name in ("torch", "numpy", "pyarrow")}
    for peer in (PEERS[name] for name in ratios if name in PEERS):
        where = {"path": [str(arguments.peers / peer.folder)]} if peer.folder else {}
        found = next(packages.distributions(name=peer.package, **where), None)
        versions[peer.package] = found.version if found else "a checkout"
    head = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}, {arguments.rounds} rounds, {versions}"
    print(head)
    print(f"{'':48s} {'M tokens/s':>22s} {'/ bare gather':>24s}")
    gathered = speeds["bare gather"]
    print(f"{'bare gather':48s} {statistics.median(gathered):8.0f} ({min(gathered):.0f}-{max(gathered):.0f})")
    for name, ratio in ratios.items():
        speed = speeds[name]
        print(
            f"{name:48s} {statistics.median(speed):8.0f} ({min(speed):.0f}-{max(speed):.0f})"
            f" {statistics.median(ratio):14.3f} ({min(ratio):.3f}-{max(ratio):.3f})"
        )
    arguments.results.mkdir(exist_ok=True)
    path = arguments.results / f"loader_{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps({"head": head, "ratios": ratios, "speeds": speeds}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
