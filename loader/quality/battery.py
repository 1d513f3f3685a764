"""The statistics that a shuffle has to pass. Each takes orders and gives a p-value, uniform for a true shuffle.

An order is an array: `order[i]` is the place in the source, 0 … n - 1, of the i-th row that is served. A random
permutation, cut into labels by bins or residues, is a sequence of independent labels whose totals are given; that
settles the degrees of freedom below. A p-value near 1 is as bad as one near 0 (statistics.py): then it is too regular.

    lags          serial correlation at lags 1 … 1,024, the largest of all
    pairs         neighbours (2-D) in the squares of a grid        triples   (3-D) in the cubes of one
    descents      steps downward                                   turns     peaks and valleys, so the length of runs
    windows       the source's sixteenths in windows of some hundred rows
    drift         a coarse grid of place in the order against place in the source
    residues      mod 2, 3, 5, 7 and 16: in tuples of neighbours and in windows
    displacement  the mean distance of a row from its place, n/3   distances their whole distribution
    collisions    pairs of a batch that come from one block
    cycles        their number, and the length of a row's own (cycles.py, which says what an order's parity is, too)
    epochs        correlation with the next epoch                  company   neighbours that stay neighbours in it
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from .cycles import cycle_count, cycle_of_a_row
from .statistics import chi_square_tail, normal_tail, uniform_tail

Order = NDArray[np.int64]
MIN_ROWS = 1000
MAX_LAG = 1024
WINDOW_ROWS = 256
BINS = 16
#: Moduli, and how many successive residues make a tuple: some tens of cells each.
RESIDUES = {2: 5, 3: 3, 5: 2, 7: 2, 16: 2}
NEAR = 16  # places apart, at most, that count as company


def serial_correlation(order: Order) -> float:
    """The largest over lags, as one p-value (Sidak: the correlations at different lags are all but independent).

    Circular, so that mean and variance are exact (Wald & Wolfowitz 1943, for centred values); all lags by one FFT.
    """
    n = order.size
    centred = order - (n - 1) / 2
    second, fourth = float(np.sum(centred**2)), float(np.sum(centred**4))
    sums = np.fft.irfft(np.abs(np.fft.rfft(centred)) ** 2, n)[1 : min(MAX_LAG, n // 4) + 1]
    mean = -second / (n - 1)
    variance = (second**2 - fourth) / (n - 1) + (second**2 - 2 * fourth) / ((n - 1) * (n - 2)) - mean**2
    largest = float(np.abs(sums - mean).max()) / math.sqrt(variance)
    return -math.expm1(sums.size * math.log1p(-2 * normal_tail(largest)))


def tuples(labels: Order, kinds: int, length: int) -> float:
    """Chi-square of the combinations that successive labels make, taken `length` at a time, without overlap.

    kinds**length cells, less one for the total, less kinds - 1 for the totals of labels that a permutation fixes.
    """
    groups = labels.size // length
    cells = np.zeros(groups, np.int64)
    for part in range(length):
        cells = cells * kinds + labels[part : groups * length : length]  # the tuple as a number of base `kinds`
    shares = np.bincount(labels, minlength=kinds) / labels.size
    expected = shares
    for _ in range(length - 1):
        expected = np.multiply.outer(expected, shares).reshape(-1)
    had = np.bincount(cells, minlength=kinds**length)
    return chi_square_tail(_pearson(had, groups * expected), kinds**length - kinds)


def pairs(order: Order) -> float:
    """`tuples` of two neighbours: some 32 pairs of rows a cell, so that chi-square holds (5 would do)."""
    kinds = max(3, min(128, math.isqrt(order.size // 32)))
    return tuples(_binned(order, kinds), kinds, 2)


def triples(order: Order) -> float:
    """`tuples` of three neighbours. Marsaglia (1968): the planes of an LCG show in three dimensions."""
    kinds = max(3, min(24, int((order.size / 48) ** (1 / 3))))
    return tuples(_binned(order, kinds), kinds, 3)


def descents(order: Order) -> float:
    """Eulerian numbers: mean (n - 1) / 2, variance (n + 1) / 12."""
    n, steps_down = order.size, int(np.sum(order[1:] < order[:-1]))
    return normal_tail((steps_down - (n - 1) / 2) / math.sqrt((n + 1) / 12))


def turning_points(order: Order) -> float:
    """Rows above both neighbours, or below both: mean 2 (n - 2) / 3, variance (16 n - 29) / 90 (Bienaymé 1874)."""
    n, upward = order.size, order[1:] > order[:-1]
    turns = int(np.sum(upward[1:] != upward[:-1]))
    return normal_tail((turns - 2 * (n - 2) / 3) / math.sqrt((16 * n - 29) / 90))


def contingency(groups: Order, labels: Order) -> float:
    """Chi-square of a table in which the totals of both sides are given (hypergeometric)."""
    n, rows, columns = labels.size, int(groups.max()) + 1, int(labels.max()) + 1
    had = np.bincount(groups * columns + labels, minlength=rows * columns).reshape(rows, columns)
    expected = np.outer(had.sum(axis=1), had.sum(axis=0)) / n
    return chi_square_tail(_pearson(had, expected) * (n - 1) / n, (rows - 1) * (columns - 1))


def windows(order: Order) -> float:
    """`contingency` of window against sixteenth of the source."""
    return contingency(_windows(order.size), _binned(order, BINS))


def drift(order: Order) -> float:
    """`contingency` of place in the order against place in the source: an order that keeps its begin near the begin."""
    kinds = max(4, min(64, math.isqrt(order.size // 16)))
    return contingency(_binned(np.arange(order.size), kinds), _binned(order, kinds))


def residue_tuples(modulus: int, length: int) -> Callable[[Order], float]:
    return lambda order: tuples(order % modulus, modulus, length)


def residue_windows(modulus: int) -> Callable[[Order], float]:
    return lambda order: contingency(_windows(order.size), order % modulus)


def displacement(order: Order) -> float:
    """Spearman's footrule: mean (n² - 1) / 3, variance (n + 1) (2 n² + 7) / 45 (Diaconis & Graham 1977)."""
    n = order.size
    total = float(np.sum(np.abs(order - np.arange(n))))
    return normal_tail((total - (n * n - 1) / 3) / math.sqrt((n + 1) * (2 * n * n + 7) / 45))


def distances(order: Order) -> float:
    """Kolmogorov-Smirnov of the distances from home: one below x n has probability 1 - (1 - x)².

    Of a thirty-second of the rows, drawn by lot, for those of all rows hang together: each place is taken once.
    """
    n = order.size
    drawn = np.random.default_rng(n).choice(n, max(32, n // 32), replace=False)
    moved = (np.abs(order[drawn] - drawn) + 0.5) / n
    return uniform_tail(1 - (1 - moved) ** 2)


def collisions(order: Order) -> float:
    """Pairs of rows of one batch from one block, for the mean number: `colliding`.

    The variance is the mean's, less what the fixed totals of batches and blocks take away.
    """
    n = order.size
    batch_rows, block_rows = collision_sizes(n)
    colliding_pairs, expected = colliding(order, batch_rows, block_rows), ideal_colliding(n, batch_rows, block_rows)
    variance = expected * (1 - batch_rows / n) * (1 - block_rows / n)
    return normal_tail((colliding_pairs - expected) / math.sqrt(variance))


def collision_sizes(n: int) -> tuple[int, int]:
    """Rows of a batch and of a block, small enough for collisions to be rare and common enough to be counted."""
    return (384, 64) if n >= 2**17 else (64, 16)


def colliding(order: Order, batch_rows: int, block_rows: int) -> int:
    """How many pairs of rows share both their batch and their block, whole batches or not."""
    n = order.size
    cells = np.sort(np.arange(n) // batch_rows * (n // block_rows + 1) + order // block_rows)
    edges = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1], [True]]))
    sizes = np.diff(edges)
    return int(np.sum(sizes * (sizes - 1) // 2))


def ideal_colliding(n: int, batch_rows: int, block_rows: int) -> float:
    """The mean of `colliding` over all orders."""

    def within(size: int) -> int:
        whole, rest = divmod(n, size)
        return whole * (size * (size - 1) // 2) + rest * (rest - 1) // 2

    return within(batch_rows) * within(block_rows) / (n * (n - 1) / 2)


def epochs(order: Order, following: Order) -> float:
    """Spearman's rank correlation, row by row, of an epoch with the next one; its variance is 1 / (n - 1)."""
    n, middle = order.size, (order.size - 1) / 2
    product = float(np.dot(order - middle, following - middle))
    return normal_tail(product / (n * (n * n - 1) / 12) * math.sqrt(n - 1))


def company(order: Order, following: Order) -> float:
    """Pairs at most 16 places apart in both epochs. Rare and all but independent, so Poisson; the mean is exact."""
    n = order.size
    place = np.empty(n, np.int64)
    place[following] = np.arange(n)
    visited = place[order]
    together = sum(int(np.sum(np.abs(visited[d:] - visited[:-d]) <= NEAR)) for d in range(1, NEAR + 1))
    near = sum(n - d for d in range(1, NEAR + 1))
    expected = near * near / (n * (n - 1) / 2)
    return normal_tail((together - expected) / math.sqrt(expected))


#: Statistics of one order.
OF_ONE: dict[str, Callable[[Order], float]] = {
    "lags 1 to 1,024": serial_correlation,
    "pairs": pairs,
    "triples": triples,
    "descents": descents,
    "turning points": turning_points,
    "windows": windows,
    "drift": drift,
    **{f"mod {modulus} tuples": residue_tuples(modulus, length) for modulus, length in RESIDUES.items()},
    **{f"mod {modulus} windows": residue_windows(modulus) for modulus in RESIDUES},
    "displacement": displacement,
    "distances": distances,
    "collisions": collisions,
    "cycles": cycle_count,
    "cycle of a row": cycle_of_a_row,
}
#: Statistics of an order and the one of the next epoch.
OF_TWO: dict[str, Callable[[Order, Order], float]] = {"epochs": epochs, "company": company}


def examine(order: Order, following: Order | None = None) -> dict[str, float]:
    """The p-values of an order by statistic, and with that of the next epoch those of both.

    Args:
        order: int64 [n], each of 0 … n - 1 once, n >= 1,000.
        following: the order of the next epoch, likewise.

    Raises:
        ValueError: one of them is no such order.
    """
    check(order)
    p_values = {name: statistic(order) for name, statistic in OF_ONE.items()}
    if following is not None:
        check(following)
        p_values |= {name: statistic(order, following) for name, statistic in OF_TWO.items()}
    return p_values


def sweep(orders: Iterable[tuple[Order, Order]]) -> dict[str, NDArray[np.float64]]:
    """The p-values of many (order, next order), at least one: by statistic, one an order."""
    p_values = [examine(order, following) for order, following in orders]
    return {name: np.array([of_order[name] for of_order in p_values]) for name in p_values[0]}


def check(order: Order) -> None:
    """Raises ValueError where `order` is none: a p-value of anything else would mean nothing."""
    n = order.size
    if n < MIN_ROWS:
        raise ValueError(f"an order of {n:,} rows is too short for its statistics: {MIN_ROWS:,} at least")
    if order.min() < 0 or order.max() >= n or np.bincount(order, minlength=n).max() > 1:
        raise ValueError(f"no order: not every number from 0 to {n - 1:,} comes once")


def _pearson(had: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    return float(np.sum((had - expected) ** 2 / expected))


def _binned(places: Order, bins: int) -> Order:
    """Which of `bins` equal parts of [0, n) a place lies in."""
    return places * bins // places.size


def _windows(n: int) -> Order:
    """By row, the number of its window: of 256 rows or, where that makes fewer than eight, of an eighth of all."""
    return _binned(np.arange(n), max(8, n // WINDOW_ROWS))
