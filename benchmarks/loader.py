"""How quickly batches of 8 x 4096 come out of one core: ours beside a bare gather and beside peers, in one run.

    python -m benchmarks.loader_data                                # once: text cut into documents of three lengths
    python -m benchmarks.loader benchmarks/.cache/loading/500 [--rounds 5] [--peers FOLDER] [--only TOOL ...]

The yardstick is what nobody can beat who copies row by row in numpy: rows at random places of a uint16 memory map,
copied to int64. Every tool runs in a process of its own, with its files read just before; rounds are interleaved, and
the ratio is to the yardstick runs just before and after. A row with threads or workers has all cores and is timed by
the wall clock; every other one is pinned to a core and timed by the processor seconds of its process, which a busy
machine bends less. Peers (loader_peers.py) that are not installed are named and left out.

    ids            input_ids alone, shuffled and mixed over all sources of the dataset, from the warm block cache
    full           with labels, positions and document numbers
    not shuffled   as `full`, in the order stored
    first epoch    with an empty cache: compressed shards, every block verified
    best-fit       rows in which no document is cut that fits into one
    19 sources     the dataset of 19 sources, with its weights
    text           parquet of text, tokenized as it is read
    numpy          as it is where nothing was compiled (BAMBA_NATIVE=0)
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
from typing import Any, NamedTuple

import numpy as np

from benchmarks.loader_peers import PEERS, ROWS, SHIPPED, TOKENS, read

BATCHES = 1000
WARM_SECONDS = 1.0
FULL = ("input_ids", "labels", "position_ids", "seq_idx")
IDS = ("input_ids",)


class Speed(NamedTuple):
    """Million tokens a second, of the processor and of the wall clock."""

    processor: float
    wall: float


def timed(batches: Iterator[Any], count: int = BATCHES) -> Speed:
    began = time.process_time(), time.perf_counter()
    for _ in range(count):
        next(batches)
    seconds = time.process_time() - began[0], time.perf_counter() - began[1]
    return Speed(*(count * ROWS * TOKENS / taken / 1e6 for taken in seconds))


def gather(memmap: Path) -> Iterator[np.ndarray]:
    read(memmap)
    tokens = np.memmap(memmap, np.uint16, "r")
    dice = np.random.default_rng(0)
    while True:
        out = np.empty((ROWS, TOKENS), np.int64)
        for row, start in zip(out, dice.integers(0, len(tokens) - TOKENS, ROWS), strict=True):
            row[:] = tokens[start : start + TOKENS]
        yield out


def run_gather(work: Path, data: Path) -> Speed:
    batches = gather(work / "tokens.bin")
    timed(batches, 300)
    return timed(batches)


def ours(
    fields: tuple[str, ...] = FULL,
    dataset: str = "one",
    cold: bool = False,
    threads: int = 0,
    native: bool = True,
    **order: Any,
) -> Callable[[Path, Path], Speed]:
    """A run of ours. `dataset` is a folder in the data's: `one`, `nineteen`, or `texts` for parquet of text."""

    def run(work: Path, data: Path) -> Speed:
        if not native:
            os.environ["BAMBA_NATIVE"] = "0"
        from loader import OrderSpec, Reading, TextSource, build_loader

        place = data if dataset == "one" and not (data / "one").exists() else data / dataset
        if not place.exists():
            raise SystemExit(f"there is no {place}: see benchmarks/loader_data.py")
        spec = OrderSpec(row_tokens=TOKENS, batch_rows=ROWS, seed=1, **order)
        source: Any = TextSource("texts", f"{place}/*.parquet", SHIPPED) if dataset == "texts" else str(place)
        cache = work / f"{dataset}-{order}-{cold}"
        if cold:
            shutil.rmtree(cache / "segments", ignore_errors=True)
        loader = build_loader(source, spec, Reading(num_workers=threads, fields=fields, cache=cache))
        start = loader.state_dict()
        # A whole epoch: its first rows touch most of its blocks.
        rows = sum(loader.order.source(name).stream.first_row(1) for name in loader.plan.sources)
        count = rows // ROWS - 1 if cold else BATCHES
        read(place)
        if not cold:
            for _ in range(count):
                next(loader)
            loader.load_state_dict(start)
            read(cache)
        next(loader)
        return timed(loader, count - 1)

    return run


OURS: dict[str, Callable[[Path, Path], Speed]] = {
    "bare gather": run_gather,
    "ours, ids": ours(IDS),
    "ours, full": ours(),
    "ours, full, not shuffled": ours(shuffle=False),
    "ours, full, best-fit": ours(packing="best-fit"),
    "ours, full, 19 sources": ours(dataset="nineteen"),
    "ours, ids, first epoch": ours(IDS, cold=True),
    "ours, full, first epoch": ours(cold=True),
    "ours, full, best-fit, first epoch": ours(cold=True, packing="best-fit"),
    "ours, full, 19 sources, first epoch": ours(dataset="nineteen", cold=True),
    "ours, full, text": ours(dataset="texts", cold=True),
    "ours, ids, numpy": ours(IDS, native=False),
    "ours, full, numpy": ours(native=False),
    "ours, full, first epoch, numpy": ours(cold=True, native=False),
    **{f"ours, full, {threads} threads": ours(threads=threads) for threads in (2, 4, 8)},
    **{f"ours, full, first epoch, {threads} threads": ours(cold=True, threads=threads) for threads in (2, 4, 8)},
}
TOOLS = [*OURS, *PEERS]


def has_threads(tool: str) -> bool:
    """Whether it has all cores, and is timed by the wall clock."""
    return tool.endswith(("threads", "workers"))


def run_peer(name: str, work: Path) -> Speed:
    """After 300 batches, or as many as a second gives; a slow one is timed over fewer than the others."""
    batches = PEERS[name].batches(work)
    began, warm = time.perf_counter(), 0
    while warm < 20 or (warm < 300 and time.perf_counter() - began < WARM_SECONDS):
        next(batches)
        warm += 1
    return timed(batches, BATCHES if warm == 300 else 2 * warm)


def prepare(work: Path, data: Path) -> int:
    """The tokens of the dataset end to end, and the count of each document; how many documents."""
    from bamba_data.format.dataset import open_dataset
    from bamba_data.format.shard import ShardReader

    place = data / "one" if (data / "one").exists() else data
    if (data / "texts").exists():
        (work / "texts").symlink_to((data / "texts").absolute())
    counts = []
    with (work / "tokens.bin").open("wb") as out:
        for path in open_dataset(str(place)).shards["path"]:
            reader = ShardReader(f"{place}/{path}", path)
            for block in range(reader.blocks):
                found = reader.tokens(block)
                out.write(found.ids.astype(np.uint16).tobytes())
                counts.append(found.counts)
    np.save(work / "counts.npy", np.concatenate(counts))
    return sum(map(len, counts))


def shot(what: str, tool: str, arguments: Any, work: Path) -> Speed | str:
    """`what` is "time" or "prepare"; the speed, or the last line of what went wrong."""
    command = [sys.executable, "-m", "benchmarks.loader", arguments.data, f"--{what}", tool, "--work", work]
    pinned = [] if has_threads(tool) else ["taskset", "-c", arguments.core]
    folder = PEERS[tool].folder if tool in PEERS else ""
    paths = [str(arguments.peers / folder)] if arguments.peers and folder else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*paths, str(Path.cwd())])}
    done = subprocess.run(
        [str(word) for word in (*pinned, *command)], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:120]
    return Speed(*json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder of loader_data.py, or a dataset of at least 20 M tokens")
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
        print("[0, 0]")
        return
    if arguments.time:
        own = OURS.get(arguments.time)
        print(json.dumps(own(arguments.work, arguments.data) if own else run_peer(arguments.time, arguments.work)))
        return
    with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
        work = Path(folder)
        documents = prepare(work, arguments.data)
        tokens = (work / "tokens.bin").stat().st_size // 2
        what = f"{tokens / 1e6:.0f} M tokens, documents of {tokens / documents:,.0f}"
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
                clock = int(has_threads(name))
                speeds[name].append(found[clock])
                speeds["bare gather"] += [before[clock], after[clock]]
                ratios[name].append(found[clock] * 2 / (before[clock] + after[clock]))
    report(arguments, what, ratios, speeds)


def report(arguments: Any, what: str, ratios: dict[str, list[float]], speeds: dict[str, list[float]]) -> None:
    import importlib.metadata as packages

    from benchmarks.measure import machine

    versions = {name: packages.version(name) for name in ("torch", "numpy", "pyarrow")}
    for peer in (PEERS[name] for name in ratios if name in PEERS):
        where = {"path": [str(arguments.peers / peer.folder)]} if peer.folder else {}
        found = next(packages.distributions(name=peer.package, **where), None)
        versions[peer.package] = found.version if found else "a checkout"
    head = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}, {arguments.rounds} rounds, {what}, {versions}"
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
