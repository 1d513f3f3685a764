"""What the order of rows costs: permutation in indices a second, mix and shares in milliseconds a batch, on one core.

    python -m benchmarks.loader_math [--rounds 5]
    python -m benchmarks.loader_math --mix [--steps 25000] [--keys 3]     # the tables of docs/mix.md

Processor seconds of one process, best of the rounds, because the machine is shared; numpy's own random permutation
stands beside ours. The mix is Bamba's, 19 sources at 384 rows a batch; "far" batches lie at random rows below 2^48, so
that nothing of the batch before helps, as after a resume.

With --mix: how far the mix of the served rows strays from its weights at the worst prefix, source, rank and key.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import numpy as np

from benchmarks.measure import machine
from loader.order.continued_fraction import quotients
from loader.order.deviation import worst_deviation
from loader.order.mixture import CELL, TURN, Lattice
from loader.order.permutation import Permutation, derive_key
from loader.order.rank_split import cell_rotation, ranks_of_rows, rows_of_rank

WEIGHTS = (1456, 1835, 1558, 1851, 450, 1500, 300, 236, 114, 200, 100, 62, 27, 11, 51, 49, 100, 55, 45)
BATCH_ROWS = 384
WORLDS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 24, 32, 48, 64, 96, 100, 128, 160, 192, 256, 384, 500, 1000, 1024)
INDICES = 2_000_000
BATCHES = 200
#: A power of two and one more, which sends every other index round again: the best and the worst of neighbours.
SIZES = (1024, 1500, 2**20, 10**6, 10**9, 2**32 + 1, 2**40, 2**53 + 1)


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def permutations(rounds: int) -> None:
    print(f"\npermutation, M indices/s, {INDICES:,} random indices in one array (and in arrays of 4,096)")
    print(f"{'n':>24} {'forward':>8} {'inverse':>8} {'by 4,096':>8}")
    random = np.random.default_rng(2023)
    for n in SIZES:
        indices = random.integers(0, n, INDICES)
        permutation = Permutation(n, derive_key("benchmark", n))
        pieces = np.split(indices[: INDICES // 4096 * 4096], INDICES // 4096)
        seconds = (
            best_seconds(lambda p=permutation, i=indices: p(i), rounds),
            best_seconds(lambda p=permutation, i=indices: p.inverse(i), rounds),
            best_seconds(lambda p=permutation, i=pieces: [p(piece) for piece in i], rounds),
        )
        print(f"{n:>24,} " + " ".join(f"{INDICES / 1e6 / each:8.1f}" for each in seconds))
    shuffle = best_seconds(lambda: random.permutation(INDICES), rounds)
    print(f"{'numpy permutation(2 M)':>24} {INDICES / 1e6 / shuffle:8.1f}")


def batches(rounds: int) -> None:
    print(f"\nmix, milliseconds a batch of {BATCH_ROWS} rows, {len(WEIGHTS)} sources, mean of {BATCHES} batches")
    key = derive_key("benchmark")
    near = list(range(0, BATCHES * BATCH_ROWS, BATCH_ROWS))
    far = (np.random.default_rng(7).integers(0, 2**48 // BATCH_ROWS, BATCHES) * BATCH_ROWS).tolist()

    def each(work: Callable[[Lattice, int], object], firsts: list[int]) -> float:
        """A fresh lattice a round: answers are remembered for the one that was asked before."""
        offsets = iter(range(rounds))

        def run() -> None:
            lattice = Lattice.create(WEIGHTS, BATCH_ROWS, derive_key(key, next(offsets)))
            for first in firsts:
                work(lattice, first)

        return best_seconds(run, rounds) / BATCHES * 1e3

    for name, work in {
        "sources": lambda lattice, first: lattice.sources(np.arange(first, first + BATCH_ROWS)),
        "ordinals": lambda lattice, first: lattice.ordinals(np.arange(first, first + BATCH_ROWS)),
        "counts": lambda lattice, first: lattice.counts(first),
        "row_of": lambda lattice, first: lattice.row_of(3, first // 6),
        "owned, rank 3 of 192": lambda lattice, first: rows_of_rank(first, BATCH_ROWS, 3, 192, lattice),
        "owned, rank 3 of 100": lambda lattice, first: rows_of_rank(first, BATCH_ROWS, 3, 100, lattice),
    }.items():
        print(f"{name:>24}  one after the other {each(work, near):.3f}  far {each(work, far):.3f}")


def deviations(steps: int, keys: int, batch_rows: int, worlds: Iterable[int], first_row: int = 0) -> None:
    count = steps * BATCH_ROWS // batch_rows
    firsts = range(first_row, first_row + count * batch_rows, batch_rows)
    lattices = [Lattice.create(WEIGHTS, BATCH_ROWS, derive_key("deviations", key)) for key in range(keys)]
    rows = np.arange(first_row, first_row + count * batch_rows)
    sources = [lattice.sources(rows) for lattice in lattices]
    print(f"\n{count:,} batches of {batch_rows} rows from row {first_row} on, steps of {BATCH_ROWS}, {keys} keys")
    print(f"{'overall':>10} {max(worst_deviation(each, WEIGHTS) for each in sources):6.2f}")
    for world in worlds:
        worst = max(
            worst_deviation(
                each, WEIGHTS, np.concatenate([ranks_of_rows(row, batch_rows, world, lattice) for row in firsts])
            )
            for each, lattice in zip(sources, lattices, strict=True)
        )
        print(f"{'W = ' + str(world):>10} {worst:6.2f}", flush=True)


def bounds(step_rows: int, stride: int) -> None:
    """What docs/mix.md proves, for runs of so many steps: twice the sums of digits."""
    print(f"\nproven, {step_rows} rows a step: twice the most digits of any number of steps below, and of any slots")
    for steps in (2**10, 25_000, 2**20, 2**30):
        parts = [
            f"W = {w}: {2 * digits(cell_rotation(w, 1) * CELL + TURN, w * CELL, steps)}" for w in (2, 8, 64, 100, 384)
        ]
        print(f"{steps:>16,} steps: {2 * digits(TURN, CELL, steps)}, " + ", ".join(parts))
    print(f"{'within a step':>22}: {2 * digits(stride, step_rows, step_rows)}")


def digits(p: int, q: int, limit: int) -> int:
    """The most digits, added up, that a number below `limit` has in the Ostrowski numeration of p/q, or one more."""
    return sum(quotients(p, q, limit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mix", action="store_true")
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--keys", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}  numpy {np.__version__}")
    if not arguments.mix:
        permutations(arguments.rounds)
        batches(arguments.rounds)
        return
    bounds(BATCH_ROWS, Lattice.create(WEIGHTS, BATCH_ROWS, 0).stride)
    deviations(arguments.steps, arguments.keys, BATCH_ROWS, WORLDS)
    deviations(arguments.steps, arguments.keys, 2 * BATCH_ROWS, (2, 7, 8, 64, 100, 768))
    deviations(arguments.steps, arguments.keys, BATCH_ROWS, (2, 7, 8, 64, 100, 192), first_row=100)
    deviations(arguments.steps, arguments.keys, 256, (7, 8, 13, 64, 96, 192, 256))
    deviations(arguments.steps, arguments.keys, 1024, (7, 8, 13, 64, 96, 192, 256, 1024))


if __name__ == "__main__":
    main()
