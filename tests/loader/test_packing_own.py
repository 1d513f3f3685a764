"""A packing of one's own is one function; one that breaks the promise of a packer is refused before a row is served."""

import inspect
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.errors import UserError
from loader.global_order import Order
from loader.order.plan import MixPlan
from loader.packing.base import Longs, Packed
from loader.packing.best_fit import best_fit
from loader.packing.grouped import checked
from loader.packing.registry import PACKERS
from loader.tools.simulate import Size, simulate
from tests.loader.oracle import Token
from tests.loader.packing_oracle import PackingOracle
from tests.loader.plans import plan_of, reader, source

LENGTHS = st.lists(st.integers(0, 60), max_size=40)


def one_a_row(lengths: Longs, row_tokens: int) -> Packed:
    """A document a row; a longer one has as many as it fills."""
    rows = -(-lengths // row_tokens)
    document = np.repeat(np.arange(len(lengths)), rows)
    row = np.arange(len(document))
    start = (row - np.repeat(np.cumsum(rows) - rows, rows)) * row_tokens
    return Packed(len(row), row, document, start, np.minimum(start + row_tokens, lengths[document]))


@given(LENGTHS, st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_best_fit_puts_every_document_where_the_least_room_is_left(lengths: list[int], row_tokens: int) -> None:
    packed = checked(best_fit(np.array(lengths, np.int64), row_tokens), np.array(lengths, np.int64), row_tokens)
    found = [Counter[tuple[int, int, int]]() for _ in range(packed.rows)]
    for row, *piece in zip(*(column.tolist() for column in packed[1:]), strict=True):
        found[row][piece[0], piece[1], piece[2]] += 1
    documents = [[Token(0, (0, 0, number), n) for n in range(length)] for number, length in enumerate(lengths)]
    rows = PackingOracle.pack(documents, row_tokens)
    wanted = [
        Counter((one[0].document[2], one[0].place, min(one[0].place + row_tokens, one[-1].place + 1)) for one in row)
        for row in rows
    ]
    assert found == wanted


@given(LENGTHS, st.integers(1, 50), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_number_of_rows_does_not_depend_on_the_order_of_documents(
    lengths: list[int], row_tokens: int, dice: random.Random
) -> None:
    other = dice.sample(lengths, len(lengths))
    counts = {best_fit(np.array(one, np.int64), row_tokens).rows for one in (lengths, other)}
    assert len(counts) == 1


def test_rows_of_ordinary_documents_are_nearly_full() -> None:
    """Lengths as of web text, in a group of the default size."""
    lengths = np.random.default_rng(1).lognormal(6.3, 1.1, 1400).astype(np.int64) + 1
    rows = best_fit(lengths, 4096).rows
    assert rows > 256 and lengths.sum() / (rows * 4096) > 0.995


@pytest.mark.parametrize("seed", range(5))
def test_a_packing_of_ones_own_serves_every_token_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKERS, "one-a-row", one_a_row)
    one = source(random.Random(seed), "a", 9, 6, 40, heldout=3)
    order = Order(plan_of({"a": one}, {"a": 1}, 5, row_tokens=16, packing="one-a-row", after=[]), {"a": one})
    read = reader(order, max_epochs=1)
    end = order.source("a").stream.first_row(1)
    found: Counter[tuple[int, int, int]] = Counter()
    for batch in order.plan.batches(0):
        if batch.first_row >= end:
            break
        for g in [g for g in read.read(batch)["row"].tolist() if g >= 0]:
            (span,) = read.spans(batch, g)
            found.update((span.block, span.document, span.start + n) for n in range(span.tokens))
    assert found == Counter(
        (b, d, n)
        for b, block in enumerate(one.blocks)
        for d, document in enumerate(block)
        if (b, d) not in one.heldout
        for n in range(len(document))
    )


def test_the_example_in_the_documents_is_the_one_tested_here() -> None:
    assert inspect.getsource(one_a_row) in (Path(__file__).parents[2] / "docs/packing.md").read_text(encoding="utf-8")


def test_a_packing_that_is_not_known_is_an_error_that_lists_those_that_are() -> None:
    one = source(random.Random(1), "a", 4, 4, 20)
    with pytest.raises(UserError, match=r"'tetris', and there are \['best-fit', 'chunk'\]"):
        Order(plan_of({"a": one}, {"a": 1}, 4, packing="tetris"), {"a": one})


def packed(*pieces: tuple[int, int, int, int]) -> Packed:
    columns = np.array(pieces, np.int64).reshape(-1, 4).T
    return Packed(int(columns[0].max(initial=-1)) + 1, *columns)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (packed((0, 0, 0, 4), (1, 1, 0, 3)), "in no row, or in several"),  # the last token of document 1 is lost
        (packed((0, 0, 0, 4), (1, 1, 0, 4), (2, 1, 3, 4)), "in no row, or in several"),
        (packed((0, 0, 0, 4), (2, 1, 0, 4)), "a row is empty"),
        (packed((0, 0, 0, 4), (0, 1, 0, 4)), "longer than a row"),
        (packed((0, 0, 0, 2), (0, 1, 0, 2), (1, 0, 2, 4), (1, 1, 2, 4)), "cut elsewhere"),
        (packed((0, 0, 0, 3), (1, 0, 3, 4), (2, 1, 0, 4)), "cut elsewhere"),
        (packed((0, 0, 0, 4), (1, 1, 0, 4), (2, 2, 0, 1)), "lies in no row"),
        (packed((0, 0, 0, 4)), "in no row, or in several"),
    ],
)
def test_a_packer_that_loses_repeats_or_cuts_in_vain_is_refused(made: Packed, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked(made, np.array([4, 4]), 5 if "longer" not in says else 4)


def test_a_simulation_counts_all_blocks_of_a_group_for_a_row_of_it() -> None:
    """Eight groups of four blocks of 64 rows; a rank has one row of them."""
    fields = {"seed": 1, "row_tokens": 4096, "before": [], "after": [], "window_rows": 2048, "packing": "best-fit"}
    plan = MixPlan.create({"a": 1}, {"a": "x"}, 64, **fields)
    rows = 2048
    (found,) = simulate(plan, {"a": Size(4096 * rows, 4096 * 64)}, rows, 4096 * rows, 10).sources
    assert found.rank_blocks == pytest.approx(4)
