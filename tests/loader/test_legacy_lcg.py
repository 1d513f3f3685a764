"""The order of the original Bamba loader, as its loop gives it."""

import numpy as np
import pytest

from loader.quality.bamba_lcg import legacy_order


def walked(n: int, seed: int, rank: int) -> list[int]:
    """One epoch of n documents by the published rule: x <- 5 x + c mod m from x = seed + rank, if below n."""
    modulus = 1
    while modulus < n:
        modulus *= 2
    x, order = seed + rank, []
    while len(order) < n:
        x = (5 * x + 2 * (rank + seed) + 1) % modulus
        if x < n:
            order.append(x)
    return order


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 1000, 1024, 1025, 1500])
@pytest.mark.parametrize(("seed", "rank"), [(0, 0), (42, 0), (2023, 95)])
def test_it_is_the_published_walk(n: int, seed: int, rank: int) -> None:
    assert legacy_order(n, seed, rank).tolist() == walked(n, seed, rank)


def test_it_visits_every_document_once() -> None:
    assert np.array_equal(np.sort(legacy_order(100_003, 42)), np.arange(100_003))
