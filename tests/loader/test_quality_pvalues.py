"""Tails of distributions, against published tables and against counting."""

import itertools
import math

import numpy as np
import pytest

from loader.quality.statistics import chi_square_tail, kolmogorov_tail, normal_tail, same_tail, uniform_tail


@pytest.mark.parametrize(("z", "tail"), [(0, 0.5), (1.644854, 0.05), (3.090232, 0.001), (-1.281552, 0.9)])
def test_the_normal_tail_is_that_of_the_tables(z: float, tail: float) -> None:
    assert normal_tail(z) == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize(
    ("x", "freedom", "tail"),
    [
        (3.841459, 1, 0.05),
        (10.827566, 1, 0.001),
        (5.991465, 2, 0.05),
        (0.351846, 3, 0.95),
        (18.307038, 10, 0.05),
        (124.342113, 100, 0.05),
        (61.918, 99, 0.9988),
        (149.449253, 100, 0.001),
    ],
)
def test_the_chi_square_tail_is_that_of_the_tables(x: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(x, freedom) == pytest.approx(tail, rel=1e-3)


@pytest.mark.parametrize("share", [0.8, 0.95, 1.0, 1.05, 1.2])
def test_the_chi_square_tail_goes_on_smoothly_where_the_sum_ends(share: float) -> None:
    below, above = (chi_square_tail(share * freedom, freedom) for freedom in (400, 402))
    assert above == pytest.approx(below, abs=5e-3)
    assert chi_square_tail(share * 402, 402) == pytest.approx(_by_the_sum(share * 402, 402), abs=1e-4)


def _by_the_sum(x: float, freedom: int) -> float:
    """For even degrees of freedom: the chance that a Poisson variable of mean x/2 is below freedom/2."""
    return math.fsum(math.exp(k * math.log(x / 2) - x / 2 - math.lgamma(k + 1)) for k in range(freedom // 2))


def test_nothing_is_less_than_no_chi_square() -> None:
    assert chi_square_tail(0.0, 5) == 1.0
    assert 0 <= chi_square_tail(1e5, 300) < 1e-100


@pytest.mark.parametrize(("x", "tail"), [(1.2238, 0.1), (1.3581, 0.05), (1.6276, 0.01)])
def test_the_kolmogorov_tail_is_that_of_the_tables(x: float, tail: float) -> None:
    assert kolmogorov_tail(x / 1000, 1e6) == pytest.approx(tail, rel=2e-3)
    assert kolmogorov_tail(0.0, 100) == 1.0


def test_the_distance_from_uniform_is_the_largest_on_either_side() -> None:
    """All of five values at 0.9: from below the distance is 0.9, from above 0.1."""
    assert uniform_tail(np.full(5, 0.9)) == kolmogorov_tail(0.9, 5)
    assert uniform_tail(np.full(5, 0.1)) == kolmogorov_tail(0.9, 5)
    assert uniform_tail((np.arange(100) + 0.5) / 100) == kolmogorov_tail(0.005, 100) == 1.0


def test_the_distance_of_two_samples_is_that_of_their_shares() -> None:
    random = np.random.default_rng(3)
    for sizes in ((5, 8), (30, 30), (1, 40)):
        some, others = (random.integers(0, 20, size) / 20 for size in sizes)
        distance = max(
            abs(np.mean(some <= x) - np.mean(others <= x)) for x in itertools.chain(some.tolist(), others.tolist())
        )
        assert same_tail(some, others) == pytest.approx(kolmogorov_tail(distance, sizes[0] * sizes[1] / sum(sizes)))


def test_draws_from_uniform_are_found_uniform_as_often_as_they_should_be() -> None:
    random = np.random.default_rng(5)
    tails = np.array([uniform_tail(random.random(100)) for _ in range(2000)])
    assert np.mean(tails < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(tails < 0.5) == pytest.approx(0.5, abs=0.04)
