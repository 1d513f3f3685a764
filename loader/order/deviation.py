"""How far a served order strays from its weights: the most rows by which any source is off, at any prefix of any rank.

After n rows of a rank a source of weight share w should have had n w of them. The worst prefix of all ends just before
or just after a row of the source, or at the end: so it is found without trying every prefix against every source.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def worst_deviation(
    sources: NDArray[np.integer], weights: Sequence[int], ranks_of_rows: NDArray[np.integer] | None = None
) -> float:
    """The largest distance, in rows, between what a source had and its share, over all prefixes, sources and ranks.

    Args:
        sources: int [n], the source of each row, in the order served.
        weights: by source, in proportion to its share.
        ranks_of_rows: int [n], the rank of each row; None for the order as a whole.
    """
    ranks = np.zeros(sources.size, np.int64) if ranks_of_rows is None else ranks_of_rows.astype(np.int64)
    shares = np.array(weights) / sum(weights)
    groups = ranks * len(weights) + sources
    rows, hits = earlier_equal(ranks), earlier_equal(groups)
    before = shares[sources] * rows - hits
    after = hits + 1 - shares[sources] * (rows + 1)
    served = np.bincount(ranks)
    had = np.bincount(groups, minlength=served.size * shares.size).reshape(served.size, shares.size)
    end = np.abs(had - served[:, None] * shares)
    return float(max(before.max(), after.max(), end.max()))


def earlier_equal(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """For every element of `labels` [n], none negative, the number of equal ones before it: int64 [n]."""
    counts = np.bincount(labels)
    if counts.size <= 2**16:
        labels = labels.astype(np.uint16)  # numpy sorts these by radix: ten times quicker
    order = np.argsort(labels, kind="stable")
    firsts = np.cumsum(counts) - counts
    earlier = np.empty(labels.size, np.int64)
    earlier[order] = np.arange(labels.size) - firsts[labels[order]]
    return earlier
