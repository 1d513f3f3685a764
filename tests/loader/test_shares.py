"""Ranks share a batch: every row once, as equally as can be, and every source in its share at every prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.order.deviation import worst_deviation
from loader.order.mixture import CELL, Lattice
from loader.order.permutation import derive_key
from loader.order.rank_split import ranks_of_rows, rows_of_rank
from tests.loader.bamba import BATCH_ROWS, BY_NAME, WEIGHTS

KEY = derive_key("test shares")
GOLDEN_EVEN = [39, 135, 231, 327]
GOLDEN_ODD = [384000000003, 384000000091, 384000000151, 384000000239]
GOLDEN_REST = [385, 388, 391]
WORLDS = st.integers(1, 100) | st.sampled_from([96, 128, 160, 192, 384, 1000, 1024])

#: What is promised of the Bamba mix at 384 rows a batch, in rows, by world size.
PROMISED = {1: 7, 2: 7, 3: 7, 8: 7, 64: 7, 96: 7, 192: 7, 384: 7, 100: 10, 160: 10, 5: 20, 7: 20, 11: 20, 13: 20}
#: And of others, in docs/mix.md.
STATED = {
    4: 7,
    6: 7,
    12: 7,
    16: 10,
    24: 7,
    32: 10,
    48: 7,
    128: 7,
    256: 10,
    385: 10,
    500: 10,
    768: 10,
    1000: 10,
    1024: 10,
}


def served(
    lattice: Lattice, steps: int, batch_rows: int, world_size: int, first_row: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sources and owners of the rows of so many batches."""
    firsts = range(first_row, first_row + steps * batch_rows, batch_rows)
    ranks = np.concatenate([ranks_of_rows(first, batch_rows, world_size, lattice) for first in firsts])
    return lattice.sources(np.arange(first_row, first_row + ranks.size)), ranks


@given(
    step_rows=st.integers(1, 60) | st.sampled_from([96, 384]),
    batch_rows=st.integers(1, 60) | st.sampled_from([96, 384, 768]),
    world_size=WORLDS,
    begin=st.integers(0, 10**12),
    aligned=st.booleans(),
    mixed=st.booleans(),
)
@settings(deadline=None)
def test_the_ranks_rows_are_the_batch_and_differ_by_one_at_most(
    step_rows: int, batch_rows: int, world_size: int, begin: int, aligned: bool, mixed: bool
) -> None:
    lattice = Lattice.create([3, 2, 1], step_rows, KEY, first_row=5)
    first = 5 + (begin // step_rows * step_rows if aligned else begin)
    parts = [
        rows_of_rank(first, batch_rows, rank, world_size, lattice if mixed else None) for rank in range(world_size)
    ]
    assert sorted(np.concatenate(parts).tolist()) == list(range(first, first + batch_rows))
    assert all(np.all(np.diff(part) > 0) for part in parts)
    assert {part.size for part in parts} <= {batch_rows // world_size, -(-batch_rows // world_size)}


@pytest.mark.parametrize(("world_size", "rows"), {**PROMISED, **STATED}.items())
def test_the_bamba_mix_is_served_evenly_at_every_prefix(world_size: int, rows: int) -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    sources, ranks = served(lattice, 2000, BATCH_ROWS, world_size)
    assert worst_deviation(sources, WEIGHTS) <= 7
    assert worst_deviation(sources, WEIGHTS, ranks) <= rows


@pytest.mark.parametrize("world_size", [1, 3, 8, 96])
def test_the_order_of_the_sources_on_the_circle_does_not_matter(world_size: int) -> None:
    for weights in (BY_NAME, WEIGHTS[::-1], tuple(sorted(WEIGHTS))):
        sources, ranks = served(Lattice.create(weights, BATCH_ROWS, KEY), 1500, BATCH_ROWS, world_size)
        assert worst_deviation(sources, weights, ranks) <= 7


@pytest.mark.long
@pytest.mark.parametrize("key", [1, 2, 3])
@pytest.mark.parametrize(("world_size", "rows"), {**PROMISED, **STATED}.items())
def test_the_bamba_mix_is_served_evenly_at_every_prefix_of_a_long_run(world_size: int, rows: int, key: int) -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, derive_key("long run", key))
    sources, ranks = served(lattice, 25_000, BATCH_ROWS, world_size)
    assert worst_deviation(sources, WEIGHTS) <= 7
    assert worst_deviation(sources, WEIGHTS, ranks) <= rows


@pytest.mark.parametrize("world_size", [2, 4, 6, 8, 64, 384, 1024])
@pytest.mark.parametrize("batch_rows", [8, 64, 384])
def test_two_halves_are_halves_on_every_rank_of_an_even_world(world_size: int, batch_rows: int) -> None:
    lattice = Lattice.create([1, 1], batch_rows, KEY)
    sources, ranks = served(lattice, 4000, batch_rows, world_size)
    assert worst_deviation(sources, [1, 1], ranks) <= 5


@given(
    weights=st.lists(st.integers(1, 100), min_size=2, max_size=6),
    world_size=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 48]),
    far=st.integers(0, 2**35),
)
@settings(deadline=None)
def test_every_step_gives_every_rank_its_share_of_every_source_to_a_row(
    weights: list[int], world_size: int, far: int
) -> None:
    lattice = Lattice.create(weights, 48, KEY)
    first = far * 48
    for rank in range(world_size):
        sources = lattice.sources(rows_of_rank(first, 48, rank, world_size, lattice))
        share = np.array(weights) / sum(weights) * (48 / world_size)
        assert np.abs(np.bincount(sources, minlength=len(weights)) - share).max() < 1 + 1e-9


def test_a_batch_of_several_steps_is_shared_evenly_too() -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    for world_size in (2, 8, 64, 96, 384, 768):
        sources, ranks = served(lattice, 1000, 2 * BATCH_ROWS, world_size)
        assert worst_deviation(sources, WEIGHTS, ranks) <= 8, world_size


def test_a_batch_that_begins_anywhere_is_shared_evenly_if_the_world_divides_it() -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    for world_size in (2, 8, 64, 96, 384):
        sources, ranks = served(lattice, 2000, BATCH_ROWS, world_size, first_row=100)
        assert worst_deviation(sources, WEIGHTS, ranks) <= 10, world_size


@pytest.mark.parametrize(
    ("batch_rows", "world_size", "rows"),
    [(256, 96, 15), (256, 192, 15), (256, 384, 15), (100, 13, 25), (1024, 192, 25), (1024, 256, 15), (48, 1000, 10)],
)
def test_a_batch_that_neither_divides_nor_is_divided_does_not_alias(
    batch_rows: int, world_size: int, rows: int
) -> None:
    """Dealt in turn without a turn of the deal, 192 ranks of 256 rows would be off by 150."""
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    sources, ranks = served(lattice, 800_000 // batch_rows, batch_rows, world_size, first_row=100)
    assert worst_deviation(sources, WEIGHTS, ranks) <= rows


def test_a_batch_over_a_change_of_weights_is_dealt_in_turn() -> None:
    assert rows_of_rank(10, 7, 1, 3).tolist() == [10, 13, 16]


def test_a_later_batch_size_is_a_new_cut_of_the_same_order() -> None:
    """Which rank computes a row may change, never which rows come next."""
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    for first, batch_rows in ((0, 384), (384, 100), (484, 768), (1252, 1)):
        together = np.concatenate([rows_of_rank(first, batch_rows, rank, 7, lattice) for rank in range(7)])
        assert sorted(together.tolist()) == list(range(first, first + batch_rows))


def test_who_reads_what_never_changes() -> None:
    """Golden. No order depends on it, but ledgers of ranks do."""
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, derive_key("golden"))
    assert rows_of_rank(0, 384, 3, 96, lattice).tolist() == GOLDEN_EVEN
    assert rows_of_rank(384 * 10**9, 384, 3, 100, lattice).tolist() == GOLDEN_ODD
    assert rows_of_rank(384, 8, 1, 3, lattice).tolist() == GOLDEN_REST


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_outside_the_world_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="no rank"):
        rows_of_rank(0, 8, rank, 3)


def test_a_batch_before_its_lattice_is_refused() -> None:
    with pytest.raises(ValueError, match="begins before its lattice, at row 10"):
        rows_of_rank(9, 8, 0, 3, Lattice.create([1], 8, KEY, first_row=10))


def test_the_measure_of_deviation_is_the_plain_one() -> None:
    """Against every prefix of every rank and every source, one by one."""
    random = np.random.default_rng(1)
    weights = [5, 3, 2]
    sources, ranks = random.integers(0, 3, 400), random.integers(0, 4, 400)
    worst = 0.0
    for rank in range(4):
        own = sources[ranks == rank].tolist()
        for prefix in range(len(own) + 1):
            for source, weight in enumerate(weights):
                worst = max(worst, abs(own[:prefix].count(source) - prefix * weight / 10))
    assert worst_deviation(sources, weights, ranks) == pytest.approx(worst)


def test_the_circle_has_a_cell_for_every_row() -> None:
    lattice = Lattice.create([1, 1], 10, KEY)
    assert lattice.start_cell(0) == lattice.offset // CELL
    assert lattice.start_cell(100) - lattice.start_cell(0) in (29, 30)
