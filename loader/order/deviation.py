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
    """In rows. `sources` of the rows in the order served; `owners` their ranks, None for the order as a whole."""
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
    """For every element the number of equal ones before it."""
    counts = np.bincount(labels)
    if counts.size <= 2**16:
        labels = labels.astype(np.uint16)  # numpy sorts these by radix: ten times quicker
    order = np.argsort(labels, kind="stable")
    firsts = np.cumsum(counts) - counts
    found = np.empty(labels.size, np.int64)
    found[order] = np.arange(labels.size) - firsts[labels[order]]
    return found
