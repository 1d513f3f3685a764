"""Cycles and parity of an order are what they are expected to be: of an ideal shuffle, and of ours."""

from itertools import permutations
from math import factorial, sqrt

import numpy as np
import pytest

from loader.order.permutation import Permutation, derive_key
from loader.quality.battery import OF_ONE
from loader.quality.cycles import _chances, cycle_count, cycle_of_a_row, cycles, is_odd, number_of_cycles, odd_share
from loader.quality.judge import absurd


def ours(n: int, key: int) -> np.ndarray:
    return Permutation(n, derive_key("parity", key))(np.arange(n, dtype=np.uint64)).astype(np.int64)


def by_walking(order: list[int]) -> list[list[int]]:
    left, found = set(range(len(order))), []
    while left:
        row, cycle = min(left), []
        while row in left:
            left.remove(row)
            cycle.append(row)
            row = order[row]
        found.append(cycle)
    return found


def test_cycles_are_those_of_walking_round_them() -> None:
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(1 + 7 * seed)
        walked = by_walking(order.tolist())
        assert number_of_cycles(order) == len(walked)
        least = cycles(order)
        for cycle in walked:
            assert set(least[cycle].tolist()) == {min(cycle)}
        inversions = sum(int(np.sum(order[:at] > order[at])) for at in range(order.size))
        assert is_odd(order) == (inversions % 2 == 1)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_chances_of_so_many_cycles_are_those_of_all_orders(n: int) -> None:
    counts = np.bincount([len(by_walking(list(order))) for order in permutations(range(n))], minlength=n + 1)
    assert np.allclose(_chances(n)[: n + 1], counts / factorial(n))


def test_the_chances_of_a_long_order_are_those_of_its_coins() -> None:
    exact = np.array([1.0])
    for coin in range(1, 20_001):
        exact = np.convolve(exact, [1 - 1 / coin, 1 / coin])[:64]
    assert np.abs(_chances(20_000)[:64] - exact).max() < 1e-3
    assert abs(_chances(10**9).sum() - 1) < 1e-9


@pytest.mark.parametrize("n", [1000, 1024, 1025, 1500, 2047, 2048, 3000, 4095, 4096, 6000])
def test_our_orders_are_odd_as_often_as_their_arithmetic_says(n: int) -> None:
    keys, wanted = 400, odd_share(n)
    found = sum(is_odd(ours(n, key)) for key in range(keys)) / keys
    assert abs(found - wanted) <= 4 * sqrt(wanted * (1 - wanted) / keys) + 2 / keys, f"{found} of {wanted}"
    if n in (2048, 4096):
        assert found == wanted == 0
    if n == 4095:
        assert found > 0.99


def test_an_ideal_shuffle_is_odd_half_of_the_time() -> None:
    found = sum(is_odd(np.random.default_rng(key).permutation(4096)) for key in range(400))
    assert abs(found - 200) < 40


def test_an_order_that_is_one_cycle_or_all_fixed_points_is_seen() -> None:
    n = 4096
    still = np.arange(n)
    assert cycle_count(still) < 1e-12
    assert 1 - cycle_of_a_row(still) < 1e-3
    assert {"cycles"} <= set(absurd({name: OF_ONE[name](still) for name in ("cycles", "cycle of a row")}))
    once_round = np.roll(still, 1)
    assert cycle_of_a_row(once_round) < 1e-3 and cycle_count(once_round) > 0.99
