"""Whether p-values are those of a true shuffle: over many keys uniform, and like those of Fisher-Yates; of one order,
not absurd.

Over many keys a statistic passes if its p-values are uniform and, beside an ideal shuffle examined in the same run,
drawn from the same distribution, each by Kolmogorov-Smirnov at 1 in 100,000: some twenty statistics at a dozen sizes
then fail a true shuffle once in hundreds of runs. Keys are fixed, so that a verdict does not change from day to day.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..order.permutation import Permutation, derive_key
from .bamba_lcg import legacy_order
from .battery import Order
from .statistics import same_tail, uniform_tail

LEVEL = 1e-5  # of one statistic
ABSURD = 1e-7  # of one order: so far in a tail, either one
ODD = 0.001


@dataclass(frozen=True)
class Verdict:
    """`uniform` and `same` are p-values of p-values; `odd` is the share of keys whose p-value lies within 0.1 % of
    either end, 0.002 for a true shuffle."""

    statistic: str
    uniform: float
    same: float
    odd: float

    @property
    def passed(self) -> bool:
        return min(self.uniform, self.same) > LEVEL


def judge(p_values: dict[str, NDArray[np.float64]], ideal: dict[str, NDArray[np.float64]]) -> list[Verdict]:
    """By statistic, for the p-values over keys of battery.sweep; `ideal` are those of Fisher-Yates."""
    return [
        Verdict(
            statistic=name,
            uniform=uniform_tail(values),
            same=same_tail(values, ideal[name]),
            odd=float(np.mean((values < ODD) | (values > 1 - ODD))),
        )
        for name, values in p_values.items()
    ]


def absurd(p_values: dict[str, float]) -> list[str]:
    """The statistics in which one order cannot pass for shuffled, of the p-values of battery.examine."""
    return [name for name, value in p_values.items() if not ABSURD < value < 1 - ABSURD]


def ours(n: int, keys: int) -> Iterator[tuple[Order, Order]]:
    """For every key the order of an epoch and that of the next, as the loader makes them."""
    indices = np.arange(n)
    for key in range(keys):
        order, following = (Permutation(n, derive_key("quality", key, epoch))(indices) for epoch in (0, 1))
        yield order.astype(np.int64), following.astype(np.int64)


def fisher_yates(n: int, keys: int) -> Iterator[tuple[Order, Order]]:
    """The ideal: numpy's `permutation`, by a generator of its own for each key and epoch."""
    for key in range(keys):
        order, following = (np.random.default_rng([key, epoch]).permutation(n) for epoch in (0, 1))
        yield order, following


def legacy(n: int, keys: int) -> Iterator[tuple[Order, Order]]:
    """The original Bamba loader's walk, a = 5, with seeds from 2023 on; the next seed stands for the next epoch."""
    for seed in range(2023, 2023 + keys):
        order, following = (legacy_order(n, of_epoch) for of_epoch in (seed, seed + 1))
        yield order.astype(np.int64), following.astype(np.int64)
