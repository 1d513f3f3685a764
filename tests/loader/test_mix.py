"""The lattice says of any row which source it comes from and which of its rows it is: exactly, everywhere, evenly."""

from collections import Counter
from fractions import Fraction
from hashlib import sha256
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.errors import UserError
from loader.order.mixture import CELL, MAX_ROW, MAX_STEP_ROWS, TURN, Lattice, floor_sum
from loader.order.permutation import derive_key
from tests.loader.bamba import BATCH_ROWS, WEIGHTS

KEY = derive_key("test mix")
GOLDEN_STRIDE, GOLDEN_OFFSET = 37, 1690339944692606
GOLDEN_SOURCES = [1, 2, 2, 3, 3, 5, 5, 8, 0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 16, 0, 1, 1, 2, 2]
GOLDEN_COUNTS = [
    145600000000,
    183500000001,
    155799999998,
    185100000002,
    44999999997,
    150000000002,
    30000000000,
    23599999999,
    11400000000,
    20000000001,
    10000000000,
    6200000000,
    2700000003,
    1099999998,
    5099999999,
    4900000001,
    9999999999,
    5499999999,
    4500000001,
]
GOLDEN_DIGEST = "f506dab5abab6020f3a381a17a9c1c487f39d143819ec54208735b0d24181048"


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    weights = draw(st.lists(st.integers(1, 2000), min_size=1, max_size=8))
    step_rows = draw(st.integers(1, 40) | st.sampled_from([96, 384, 1000]))
    first_row = draw(st.sampled_from([0, 0, 1, 12_345]))
    return Lattice.create(weights, step_rows, draw(st.integers(0, 2**64 - 1)), first_row)


def source_by_the_book(lattice: Lattice, row: int) -> int:
    """The definition, for one row, in Python's integers."""
    step, slot = divmod(row - lattice.first_row, lattice.step_rows)
    circle = lattice.step_rows * CELL
    place = (lattice.stride * slot * CELL + TURN * step + lattice.offset) % circle
    ends = [circle * part // sum(lattice.weights) for part in accumulate(lattice.weights)]
    return next(source for source, end in enumerate(ends) if place < end)


@given(lattice=lattices())
@settings(deadline=None)
def test_from_the_first_row_on_it_is_what_counting_says(lattice: Lattice) -> None:
    rows = range(lattice.first_row, lattice.first_row + 3 * lattice.step_rows + 200)
    had: Counter[int] = Counter()
    sources, ordinals = lattice.sources(np.array(rows)), lattice.ordinals(np.array(rows))
    for i, row in enumerate(rows):
        source = source_by_the_book(lattice, row)
        assert (sources[i], ordinals[i]) == (source, had[source])
        if i % 37 == 0 or row == rows[-1]:
            assert lattice.counts(row).tolist() == [had[each] for each in range(len(lattice.weights))]
            assert lattice.row_of(source, had[source]) == row
        had[source] += 1


@given(lattice=lattices(), far=st.integers(0, 2**60), data=st.data())
@settings(deadline=None)
def test_at_any_row_its_answers_agree_with_each_other_and_with_the_definition(
    lattice: Lattice, far: int, data: st.DataObject
) -> None:
    row = lattice.first_row + far
    source = source_by_the_book(lattice, row)
    before, after = lattice.counts(row).tolist(), lattice.counts(row + 1).tolist()
    assert sum(before) == far
    assert [b - a for a, b in zip(before, after, strict=True)] == [int(s == source) for s in range(len(before))]
    assert lattice.sources(np.array([row])).tolist() == [source]
    assert lattice.ordinals(np.array([row])).tolist() == [before[source]]
    assert lattice.row_of(source, before[source]) == row


@pytest.mark.parametrize("near", [2**40, 2**53, 2**60, MAX_ROW - 10 * BATCH_ROWS])
def test_the_bamba_mix_is_exact_at_rows_far_beyond_what_floats_hold(near: int) -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    first = near // BATCH_ROWS * BATCH_ROWS - 3
    rows = np.arange(first, first + 3 * BATCH_ROWS)
    had = lattice.counts(first)
    sources, ordinals = lattice.sources(rows), lattice.ordinals(rows)
    for row, source, ordinal in zip(rows.tolist(), sources.tolist(), ordinals.tolist(), strict=True):
        assert source == source_by_the_book(lattice, row)
        assert ordinal == had[source]
        had[source] += 1
    assert lattice.counts(first + rows.size).tolist() == had.tolist()
    for i in (0, 2, 3, 500, rows.size - 1):
        assert lattice.row_of(int(sources[i]), int(ordinals[i])) == rows[i]


def test_at_row_2_to_the_60_every_source_still_has_its_share_to_a_few_rows() -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY)
    for steps in (2**30, 2**44, 2**51 + 12_345):
        row = steps * BATCH_ROWS
        off = [
            abs(count - Fraction(row * weight, sum(WEIGHTS)))
            for count, weight in zip(lattice.counts(row).tolist(), WEIGHTS, strict=True)
        ]
        # 2**-44 cell a bound and step, for shares are rounded to that, beside the unevenness of the points
        assert max(off) < 8 + Fraction(steps, 2**44)


@given(lattice=lattices(), step=st.integers(0, 2**40))
@settings(deadline=None)
def test_a_step_has_every_source_to_less_than_a_row(lattice: Lattice, step: int) -> None:
    first = lattice.first_row + step * lattice.step_rows
    had = lattice.counts(first + lattice.step_rows) - lattice.counts(first)
    for count, weight in zip(had.tolist(), lattice.weights, strict=True):
        exact = Fraction(lattice.step_rows * weight, sum(lattice.weights))
        assert abs(count - exact) < 1 + Fraction(1, CELL)


@given(lattice=lattices(), start=st.integers(0, 2**40))
@settings(deadline=None)
def test_any_rows_in_sequence_as_many_as_a_step_have_every_source_to_less_than_two_rows(
    lattice: Lattice, start: int
) -> None:
    first = lattice.first_row + start
    had = lattice.counts(first + lattice.step_rows) - lattice.counts(first)
    for count, weight in zip(had.tolist(), lattice.weights, strict=True):
        assert abs(count - Fraction(lattice.step_rows * weight, sum(lattice.weights))) < 2 + Fraction(1, CELL)


@pytest.mark.parametrize("length", [8, 10, 16, 48, 96, 192])
def test_the_slots_of_a_step_do_not_come_sorted_by_source(length: int) -> None:
    """Every short run of rows, within a step or over its end, has every source in its share to a few rows."""
    sources = Lattice.create(WEIGHTS, BATCH_ROWS, KEY).sources(np.arange(500 * BATCH_ROWS))
    had = np.zeros((sources.size + 1, len(WEIGHTS)), np.int64)
    np.cumsum(np.eye(len(WEIGHTS), dtype=np.int64)[sources], axis=0, out=had[1:])
    off = had[length:] - had[:-length] - length * np.array(WEIGHTS) / sum(WEIGHTS)
    assert np.abs(off).max() < 4


def test_rows_may_be_asked_in_any_order_and_shape() -> None:
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, KEY, first_row=77)
    rows = np.random.default_rng(1).integers(77, 10**6, (3, 50))
    for ask in (lattice.sources, lattice.ordinals):
        assert ask(rows).tolist() == [[int(ask(np.array([row]))[0]) for row in line] for line in rows]
        assert ask(rows.astype(np.int32)).tolist() == ask(rows).tolist()
        assert ask(np.array([], np.int64)).shape == (0,)


@given(
    lengths=st.lists(st.integers(0, 700), min_size=1, max_size=4),
    weights=st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=4, max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_when_weights_change_no_row_of_a_source_is_lost_or_repeated(
    lengths: list[int], weights: list[list[int]]
) -> None:
    row, before = 0, [0, 0, 0]
    had: list[list[int]] = [[], [], []]
    for length, mix in zip(lengths, weights, strict=False):
        lattice = Lattice.create(mix, 48, KEY, first_row=row, before=before)
        assert lattice.counts(row).tolist() == before
        rows = np.arange(row, row + length)
        for source, ordinal in zip(lattice.sources(rows).tolist(), lattice.ordinals(rows).tolist(), strict=True):
            had[source].append(ordinal)
        row += length
        before = lattice.counts(row).tolist()
    assert had == [list(range(count)) for count in before]


def test_the_mix_never_changes() -> None:
    """Golden: whoever changes these values changes the order of every run that has begun."""
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, derive_key("golden"))
    assert (lattice.stride, lattice.offset) == (GOLDEN_STRIDE, GOLDEN_OFFSET)
    assert lattice.sources(np.arange(24)).tolist() == GOLDEN_SOURCES
    assert lattice.counts(10**12).tolist() == GOLDEN_COUNTS
    digest = sha256()
    for step_rows in (1, 2, 7, 8, 96, 100, 384, 1000, 1024, 4096):
        lattice = Lattice.create(WEIGHTS, step_rows, derive_key("golden"), first_row=5)
        for first in (5, 10**6, 10**15):
            rows = np.arange(first, first + 5000)
            digest.update(lattice.sources(rows).astype("<i8").tobytes())
            digest.update(lattice.ordinals(rows).astype("<i8").tobytes())
    assert digest.hexdigest() == GOLDEN_DIGEST


@given(n=st.integers(0, 60), m=st.integers(1, 50), a=st.integers(0, 200), b=st.integers(0, 200))
@settings(deadline=None)
def test_a_floor_sum_is_the_sum_of_floors(n: int, m: int, a: int, b: int) -> None:
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@given(
    n=st.integers(0, 2**62),
    more=st.integers(0, 2**62),
    m=st.integers(1, 2**62),
    a=st.integers(0, 2**63),
    b=st.integers(0, 2**63),
)
@settings(deadline=None)
def test_a_floor_sum_of_any_size_is_the_sum_of_its_two_parts(n: int, more: int, m: int, a: int, b: int) -> None:
    assert floor_sum(n + more, m, a, b) == floor_sum(n, m, a, b) + floor_sum(more, m, a, b + a * n)


def test_one_source_has_every_row() -> None:
    lattice = Lattice.create([3], 8, KEY, first_row=10, before=[4])
    assert lattice.sources(np.arange(10, 30)).tolist() == [0] * 20
    assert lattice.ordinals(np.arange(10, 30)).tolist() == list(range(4, 24))


@pytest.mark.parametrize("key", [0, 2**64 - 1])
def test_the_largest_step_fits_the_machine(key: int) -> None:
    lattice = Lattice.create([1, 2**30, 5], MAX_STEP_ROWS, key)
    first = MAX_ROW - MAX_STEP_ROWS - 5
    rows = np.array([first, first + 7, MAX_ROW - 1])
    assert lattice.sources(rows).tolist() == [source_by_the_book(lattice, row) for row in rows.tolist()]
    assert lattice.ordinals(rows)[2] == lattice.counts(MAX_ROW - 1)[lattice.sources(rows)[2]]


@pytest.mark.parametrize(
    ("weights", "step_rows", "message"),
    [
        ([], 8, "positive"),
        ([1, 0], 8, "leave out a source"),
        ([1, -1], 8, "positive"),
        ([1, 2**60], 8, "below 2"),
        ([1], 0, "rows a step"),
        ([1], MAX_STEP_ROWS + 1, "rows a step"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(weights: list[int], step_rows: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Lattice.create(weights, step_rows, KEY)


def test_what_a_plan_holds_is_checked_again() -> None:
    with pytest.raises(ValueError, match="2 weights but rows before of 1"):
        Lattice((1, 1), 8, 3, 0, 0, (0,))
    with pytest.raises(ValueError, match="stride 2"):
        Lattice((1, 1), 8, 2, 0, 0, (0, 0))
    with pytest.raises(ValueError, match="offset"):
        Lattice((1, 1), 8, 3, 8 * CELL, 0, (0, 0))


def test_rows_outside_are_refused() -> None:
    lattice = Lattice.create([1, 1], 8, KEY, first_row=100, before=[50, 50])
    for ask in (lattice.sources, lattice.ordinals):
        for row in (99, MAX_ROW):
            with pytest.raises(IndexError, match="does not lie"):
                ask(np.array([200, row]))
        with pytest.raises(TypeError, match="integers"):
            ask(np.array([200.0]))  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="before row 100"):
        lattice.row_of(0, 49)
    with pytest.raises(IndexError, match="beyond"):
        lattice.row_of(0, 2**62)
