"""Locality counts what it says, and its ideal is the mean over orders."""

import math
from itertools import combinations

import numpy as np
import pytest

from loader.quality.locality import ideal_distinct, locality


def test_it_counts_the_pairs_and_the_groups_of_every_batch() -> None:
    batches = np.array([7, 7, 7, 7, 9, 9, 9])
    blocks = np.array([0, 0, 0, 2, 1, 1, 0])
    found = locality(batches, blocks, np.array([5, 3, 4]))
    assert (found.batches, found.rows) == (2, 3.5)
    assert (found.pairs, found.most_pairs) == ((3 + 1) / 2, 3)
    assert found.distinct == (2 + 2) / 2


def test_rows_may_come_in_any_order() -> None:
    random = np.random.default_rng(1)
    batches, blocks, rows = random.integers(0, 20, 500), random.integers(0, 9, 500), np.full(9, 100)
    order = random.permutation(500)
    assert locality(batches, blocks, rows) == locality(batches[order], blocks[order], rows)


def test_its_ideal_is_the_mean_over_all_choices_of_rows() -> None:
    group_rows = np.array([3, 1, 0, 4])
    groups = np.repeat(np.arange(4), group_rows)
    for drawn in range(1, 9):
        chosen = [groups[list(rows)] for rows in combinations(range(8), drawn)]
        distinct = np.mean([np.unique(each).size for each in chosen])
        pairs = np.mean([sum(math.comb(int(count), 2) for count in np.bincount(each)) for each in chosen])
        found = locality(np.zeros(drawn, np.int64), chosen[0], group_rows)
        assert found.ideal_distinct == pytest.approx(distinct)
        assert found.ideal_pairs == pytest.approx(pairs)
        assert ideal_distinct(group_rows, drawn) == pytest.approx(distinct)


def test_a_true_shuffle_is_as_local_as_the_ideal() -> None:
    n, batch_rows, block_rows = 200_000, 384, 64
    order = np.random.default_rng(2).permutation(n)
    found = locality(np.arange(n) // batch_rows, order // block_rows, np.full(n // block_rows, block_rows))
    assert found.pairs == pytest.approx(found.ideal_pairs, rel=0.02)
    assert found.distinct == pytest.approx(found.ideal_distinct, rel=0.001)


def test_rows_served_as_they_lie_are_as_local_as_can_be() -> None:
    rows = np.arange(6400)
    found = locality(rows // 64, rows // 64, np.full(100, 64))
    assert found.pairs == found.most_pairs == 64 * 63 / 2
    assert found.distinct == 1
    assert found.ideal_distinct > 45


def test_a_batch_of_more_rows_than_an_epoch_has_them_all() -> None:
    assert ideal_distinct(np.array([2, 0, 1]), 10) == 2


def test_nothing_served_is_nothing_measured() -> None:
    nothing = np.array([], np.int64)
    assert locality(nothing, nothing, np.array([5])).batches == 0
