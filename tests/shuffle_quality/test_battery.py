"""Our permutation passes for a true shuffle over many keys, at every size, beside Fisher-Yates; others do not.

Every size is examined with fixed keys: a verdict here never changes unless the order does.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import pytest

from loader.order.permutation import Permutation
from loader.quality.bamba_lcg import legacy_order
from loader.quality.battery import Order, check, colliding, company, examine, ideal_colliding, serial_correlation, sweep
from loader.quality.judge import absurd, fisher_yates, judge, legacy, ours

pytestmark = pytest.mark.slow

KEYS = 100
QUICK = [1024, 1025, 1500, 2048, 4096, 6000, 16_384]
LONG = [(65_536, 100), (100_003, 100), (200_003, 100), (2**18, 100), (2**20, 100), (1_500_000, 50), (2**22, 25)]
HUGE = [(2**24, 10), (12_345_678, 10)]


@lru_cache
def ideal(n: int, keys: int) -> dict[str, np.ndarray]:
    return sweep(fisher_yates(n, keys))


def failing(n: int, keys: int, orders: Iterator[tuple[Order, Order]]) -> list[str]:
    return [str(verdict) for verdict in judge(sweep(orders), ideal(n, keys)) if not verdict.passed]


@pytest.mark.parametrize("n", QUICK)
def test_our_permutation_is_as_good_as_fisher_yates(n: int) -> None:
    assert failing(n, KEYS, ours(n, KEYS)) == []


@pytest.mark.long
@pytest.mark.parametrize(("n", "keys"), [*LONG, *HUGE])
def test_our_permutation_is_as_good_as_fisher_yates_at_any_size(n: int, keys: int) -> None:
    assert failing(n, keys, ours(n, keys)) == []


@pytest.mark.parametrize("n", [1024, 1500, pytest.param(16_384, marks=pytest.mark.costly)])
def test_fisher_yates_passes(n: int) -> None:
    """With other keys than those that everything is compared to."""
    others = (
        (np.random.default_rng([key, 7]).permutation(n), np.random.default_rng([key, 8]).permutation(n))
        for key in range(KEYS)
    )
    assert failing(n, KEYS, others) == []


@pytest.mark.parametrize("n", [1024, 1500, pytest.param(16_384, marks=pytest.mark.costly)])
def test_the_original_bamba_shuffle_fails_loudly(n: int) -> None:
    keys = 20
    verdicts = judge(sweep(legacy(n, keys)), ideal(n, keys))
    certain = {verdict.statistic for verdict in verdicts if verdict.uniform < 1e-8}
    assert certain >= {"pairs", "triples", "turning points", "mod 2 tuples", "mod 3 tuples", "mod 16 tuples"}
    assert len(certain) >= 9
    for seed in range(10):
        assert len(absurd(examine(legacy_order(n, seed).astype(np.int64)))) >= 4


#: Shuffles with one fault each, and the statistics that must see it.
FAULTY: dict[str, tuple[Callable[[int, int], Order], set[str]]] = {}


def faulty(*seen_by: str) -> Callable[[Callable[[int, int], Order]], Callable[[int, int], Order]]:
    def remember(make: Callable[[int, int], Order]) -> Callable[[int, int], Order]:
        FAULTY[make.__name__] = (make, set(seen_by))
        return make

    return remember


@faulty("lags 1 to 1,024", "pairs", "triples", "windows", "drift", "displacement", "distances", "collisions")
def a_window_of_a_thousand_rows(n: int, key: int) -> Order:
    """As most loaders do it: shuffled within a buffer only."""
    rows, random = np.arange(n), np.random.default_rng(key)
    for start in range(0, n, 1000):
        random.shuffle(rows[start : start + 1000])
    return rows


@faulty("windows", "collisions")
def whole_blocks_in_a_random_order(n: int, key: int) -> Order:
    """Blocks of 64 rows are permuted, and the rows in each."""
    random = np.random.default_rng(key)
    blocks = random.permutation(n // 64)
    return (blocks[:, None] * 64 + random.permuted(np.tile(np.arange(64), (n // 64, 1)), axis=1)).reshape(-1)


@faulty("lags 1 to 1,024")
def rows_37_places_apart_that_are_sorted(n: int, key: int) -> Order:
    order = np.random.default_rng(key).permutation(n)
    low, high = order[::4], order[37::4][: order[::4].size]
    order[::4][: high.size], order[37::4] = np.minimum(low[: high.size], high), np.maximum(low[: high.size], high)
    return order


@faulty("mod 2 tuples", "mod 2 windows", "mod 16 tuples")
def even_and_odd_in_turn(n: int, key: int) -> Order:
    random = np.random.default_rng(key)
    return np.stack([2 * random.permutation(n // 2), 2 * random.permutation(n // 2) + 1], axis=1).reshape(-1)


@faulty("mod 7 windows")
def sevenths_dealt_out_evenly(n: int, key: int) -> Order:
    """Every seven rows have one of each residue, in any order: too regular."""
    random = np.random.default_rng(key)
    classes = np.stack([7 * random.permutation(n // 7) + residue for residue in range(7)], axis=1)
    return random.permuted(classes, axis=1).reshape(-1)


@faulty("drift", "displacement", "distances")
def halves_that_stay_home(n: int, key: int) -> Order:
    random = np.random.default_rng(key)
    return np.concatenate([random.permutation(n // 2), n // 2 + random.permutation(n - n // 2)])


@faulty("descents", "turning points")
def runs_that_are_too_long(n: int, key: int) -> Order:
    """Every three rows in turn are sorted upward."""
    order = np.random.default_rng(key).permutation(n // 3 * 3).reshape(-1, 3)
    order.sort(axis=1)
    return order.reshape(-1)


@faulty("collisions", "windows")
def batches_that_avoid_a_block_twice(n: int, key: int) -> Order:
    """Each 64 rows come from 64 places far apart: too regular."""
    strata = np.random.default_rng(key).permuted(np.arange(n // 64 * 64).reshape(64, -1), axis=1)
    return np.random.default_rng(key + 1).permuted(strata.T, axis=1).reshape(-1)


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_shuffle_is_seen(name: str) -> None:
    make, seen_by = FAULTY[name]
    keys = 40
    orders = [(make(16_384, key), make(16_384, key + 1000)) for key in range(keys)]
    n = orders[0][0].size
    found = {verdict.statistic for verdict in judge(sweep(iter(orders)), ideal(n, keys)) if not verdict.passed}
    assert found >= seen_by


@pytest.mark.parametrize(
    ("following", "seen_by"),
    [
        (lambda order: order, {"epochs", "company"}),
        (lambda order: order[::-1], {"company"}),
        (lambda order: np.roll(order, order.size // 2), {"company"}),
        (lambda order: order.size - 1 - order, {"epochs"}),
    ],
    ids=["the same", "backwards", "begun elsewhere", "mirrored"],
)
def test_an_epoch_that_is_not_fresh_is_seen(following: Callable[[Order], Order], seen_by: set[str]) -> None:
    orders = [(order, np.ascontiguousarray(following(order))) for order, _ in fisher_yates(4096, 40)]
    found = {verdict.statistic for verdict in judge(sweep(iter(orders)), ideal(4096, 40)) if not verdict.passed}
    assert found == seen_by


def test_fewer_rounds_than_ours_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds fail; so six pass for a reason."""
    monkeypatch.setattr("loader.order.permutation.ROUNDS", 2)
    assert len(failing(16_384, 40, ours(16_384, 40))) >= 3


def test_images_of_two_rows_are_independent_over_many_keys() -> None:
    """Rows half the source apart are the hardest for an LCG: four rounds show it at this size over millions of keys."""
    n, keys, cells = 4096, 20_000, 8
    images = np.array(
        [[permutation(0), permutation(n // 2)] for permutation in (Permutation(n, k) for k in range(keys))]
    )
    had = np.bincount(images[:, 0] * cells // n * cells + images[:, 1] * cells // n, minlength=cells * cells)
    same, other = (n / cells) * (n / cells - 1) / (n * (n - 1)), (n / cells) ** 2 / (n * (n - 1))
    expected = keys * (np.full(cells * cells, other) + (same - other) * np.eye(cells).reshape(-1))
    chi_square = float(np.sum((had - expected) ** 2 / expected))
    assert 20 < chi_square < 125  # 63 degrees of freedom: 1e-6 at either end


def test_serial_correlation_is_the_largest_that_a_loop_over_lags_finds() -> None:
    n, lags = 1000, range(1, 251)
    orders = [np.random.default_rng(seed).permutation(n) for seed in range(60)]
    centred = [order - (n - 1) / 2 for order in orders]
    mean = -float(np.sum(centred[0] ** 2)) / (n - 1)
    largest = [max(abs(float(np.dot(each, np.roll(each, -lag))) - mean) for lag in lags) for each in centred]
    found = np.array([serial_correlation(order) for order in orders])
    assert np.all(np.diff(found[np.argsort(largest)]) < 0)


def test_collisions_are_pairs_that_share_batch_and_block() -> None:
    order = np.random.default_rng(4).permutation(1000)
    for batch_rows, block_rows in ((64, 16), (7, 100), (1000, 3)):
        pairs = sum(
            order[i] // block_rows == order[j] // block_rows
            for start in range(0, 1000, batch_rows)
            for i in range(start, min(1000, start + batch_rows))
            for j in range(start, i)
        )
        assert colliding(order, batch_rows, block_rows) == pairs
    mean = np.mean([colliding(np.random.default_rng(seed).permutation(1000), 64, 16) for seed in range(500)])
    assert mean == pytest.approx(ideal_colliding(1000, 64, 16), rel=0.01)


def test_company_is_pairs_near_each_other_in_both_epochs() -> None:
    order = np.arange(5000)
    assert company(order, order) < 1e-300
    assert 0.001 < company(order, np.random.default_rng(1).permutation(5000)) < 0.999


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (np.arange(999), "too short"),
        (np.arange(1, 1002), "not every number from 0 to 1,000"),
        (np.zeros(1000, np.int64), "not every number"),
        (np.arange(-1, 999), "not every number"),
    ],
)
def test_what_is_no_order_is_refused(order: Order, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(order)
