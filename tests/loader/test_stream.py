"""A stream's arithmetic against a list of every token; and how near in their blocks the rows of a batch are."""

import random

import numpy as np
import pytest

from loader.order.epochs import RemovedTokens, Stream, document_order
from loader.order.mixture import Lattice
from loader.order.permutation import derive_key
from loader.order.plan_entries import WINDOW_ROWS
from loader.quality.locality import locality
from tests.loader.bamba import BATCH_ROWS, WEIGHTS


def written_down(stream: Stream, epochs: int) -> list[tuple[int, int, int]]:
    """(epoch, position, token) of every token, in a list."""
    found = []
    for epoch in range(epochs):
        lengths = stream.lengths_in(epoch)
        for position, block in enumerate(stream.epoch(epoch).order.tolist()):
            found += [(epoch, position, token) for token in range(int(lengths[block]))]
    return found


@pytest.mark.parametrize("seed", range(40))
def test_every_row_begins_where_the_list_of_tokens_says(seed: int) -> None:
    dice = random.Random(seed)
    lengths = np.array([dice.choice([0, 1, 5, 40]) for _ in range(dice.randint(1, 12))])
    lengths[0] = 30
    row_tokens = dice.choice([1, 3, 7, 16, 100])
    removed = tuple(RemovedTokens(dice.randint(0, 3), 0, dice.randint(1, 5)) for _ in range(dice.randint(0, 3)))
    stream = Stream(lengths, row_tokens, dice.choice([1, 4, 1000]), None, removed)
    tokens = written_down(stream, 6)
    rows = np.arange(len(tokens) // row_tokens)
    places = stream.places(rows)
    found = list(zip(*(column.tolist() for column in places), strict=True))
    wanted = [tokens[row * row_tokens] for row in rows.tolist()]
    assert [one[0] for one in found] == [one[0] for one in wanted]
    assert found == wanted


@pytest.mark.parametrize("seed", range(20))
def test_a_shuffled_epoch_has_the_rows_of_the_unshuffled_one(seed: int) -> None:
    dice = random.Random(seed)
    lengths = np.array([dice.randint(0, 60) for _ in range(dice.randint(1, 30))])
    lengths[0] = 30
    row_tokens, window = dice.choice([1, 3, 16]), dice.choice([1, 3, 50])
    stream = Stream(lengths, row_tokens, window, derive_key(seed))
    tokens = written_down(stream, 4)
    for epoch in range(3):
        first, end = stream.first_row(epoch), stream.first_row(epoch + 1)
        rows = np.arange(first, end)
        places = stream.places(rows)
        found = sorted(zip(*(column.tolist() for column in places), strict=True))
        assert found == sorted(tokens[row * row_tokens] for row in rows.tolist())
        assert {one[0] for one in found} <= {epoch}
        for row in rows[:50].tolist():
            served = stream.served_at(epoch, row)
            assert stream._shuffled(epoch, np.array([served])).tolist() == [row]


def test_places_do_not_depend_on_what_is_asked_with_them() -> None:
    stream = Stream(np.arange(200) % 37 + 1, 5, 40, 9)
    whole = stream.places(np.arange(2000))
    dice = np.random.default_rng(1)
    some = dice.permutation(2000)[:300]
    for one, other in zip(stream.places(some), whole, strict=True):
        assert np.array_equal(one, other[some])


def test_the_order_of_documents_differs_by_epoch_and_block_and_is_whole() -> None:
    orders = {(epoch, block): document_order(5, epoch, block, 30).tolist() for epoch in range(4) for block in range(4)}
    assert all(sorted(order) == list(range(30)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 16
    assert document_order(None, 3, 1, 5).tolist() == [0, 1, 2, 3, 4]


def test_at_the_mix_of_bamba_a_batch_has_at_most_three_pairs_of_a_source_from_one_block() -> None:
    """In the mean, at 64 rows a block and the default window. Two rows of a window share a block with probability
    63 / (rows of the window - 1): 3.00 pairs for the largest source. What is served is held to that, within four
    standard errors."""
    lattice = Lattice.create(WEIGHTS, BATCH_ROWS, derive_key(1, "mix", 0))
    row_tokens, rows_of_block, windows = 4096, 64, 3
    blocks = windows * WINDOW_ROWS // rows_of_block
    for number, weight in enumerate(WEIGHTS):
        batches = min(2000, windows * WINDOW_ROWS // -(-BATCH_ROWS * weight // sum(WEIGHTS)))
        rows = np.arange(batches * BATCH_ROWS)
        mine = rows[lattice.sources(rows) == number]
        counts = np.bincount(mine // BATCH_ROWS)
        expected = float((counts * (counts - 1) / 2).mean()) * (rows_of_block - 1) / (WINDOW_ROWS - 1)
        assert round(expected, 2) <= 3, f"source {number}"
        stream = Stream(np.full(blocks, rows_of_block * row_tokens), row_tokens, WINDOW_ROWS, derive_key(2, number))
        positions = stream.places(np.arange(len(mine))).position
        found = locality(mine // BATCH_ROWS, positions, np.full(blocks, rows_of_block))
        assert found.pairs <= expected + 4 * (expected / batches) ** 0.5, f"source {number}"
