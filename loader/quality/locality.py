"""How local a served order is: how often rows of one batch come from one block, and from how many files a batch comes.

A loader that reads blocks serves rows of a block near each other. This measures how much of that is left after all
shuffling, beside what a shuffle of all rows of an epoch would give: two rows that share a block are fewer different
things to learn from, however they are ordered otherwise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Locality:
    """Of one source over many batches, in pairs of rows or in groups (blocks, or upstream files) a batch.

    `pairs` are the pairs of rows of a batch that share their group: the mean over batches, and the most. `ideal_pairs`
    and `ideal_distinct` are the means over all orders of the epoch, for batches with as many rows of the source.
    """

    batches: int
    rows: float
    pairs: float
    most_pairs: int
    ideal_pairs: float
    distinct: float
    ideal_distinct: float


def locality(batches: NDArray[np.integer], groups: NDArray[np.integer], group_rows: NDArray[np.integer]) -> Locality:
    """How local the served rows of one source are.

    Args:
        batches: int [rows], the number of each row's batch. Batches without a row of the source are not counted.
        groups: int [rows], the block or file that each row begins in.
        group_rows: int [groups], the rows of every group in the whole epoch, served or not.
    """
    if batches.size == 0:
        return Locality(0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)
    numbers, batch = np.unique(batches, return_inverse=True)
    rows = np.bincount(batch)
    cells, sizes = np.unique(batch * group_rows.size + groups, return_counts=True)
    homes = cells // group_rows.size
    pairs = np.bincount(homes, weights=sizes * (sizes - 1) // 2, minlength=numbers.size)
    distinct = np.bincount(homes, minlength=numbers.size)
    total = int(group_rows.sum())
    # The chance that two rows of the epoch, drawn by lot, share their group; in floats, for squares of rows overflow.
    alike = float(np.sum(group_rows * (group_rows - 1.0))) / max(1, total * (total - 1))
    lengths, how_many = np.unique(rows, return_counts=True)
    expected = [ideal_distinct(group_rows, length) for length in lengths.tolist()]
    return Locality(
        batches=int(numbers.size),
        rows=float(rows.mean()),
        pairs=float(pairs.mean()),
        most_pairs=int(pairs.max()),
        ideal_pairs=float(np.mean(rows * (rows - 1) / 2)) * alike,
        distinct=float(distinct.mean()),
        ideal_distinct=float(np.dot(expected, how_many) / numbers.size),
    )


def ideal_distinct(group_rows: NDArray[np.integer], drawn: int) -> float:
    """The mean number of groups among `drawn` rows of the epoch, drawn by lot without return.

    A group of r of n rows is missed with probability C(n - r, drawn) / C(n, drawn): a product of `drawn` factors, taken
    once for every size of group that there is. A batch of more rows than an epoch has them all.
    """
    total = int(group_rows.sum())
    drawn = min(drawn, total)
    sizes, how_many = np.unique(group_rows, return_counts=True)
    steps = np.arange(drawn)
    missed = np.array([np.prod(np.maximum(0.0, 1 - size / (total - steps))) for size in sizes.tolist()])
    return float(np.dot(1 - missed, how_many))
