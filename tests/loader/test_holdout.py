"""What is held out never reaches training, and is read once, whole, by who asks for it."""

import random
from collections import Counter

import pytest

from bamba_data.errors import UserError
from loader.collate import FIELDS
from loader.global_order import Order
from loader.packing.segments import SegmentCache
from loader.reading import Share
from loader.row_reader import RowReader
from loader.sources.holdout import holdout_order
from tests.loader.oracle import MemoryBlocks
from tests.loader.plans import plan_of, source

Place = tuple[str, int, int]


def documents(order: Order, epochs: int) -> Counter[tuple[str, tuple[int, ...]]]:
    """Every document token that is served in so many epochs, by its ids, source by source."""
    reader = RowReader(order, SegmentCache(None, 0), Share(0, 1), FIELDS, max_epochs=epochs, ahead_rows=1)
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    end = {name: order.source(name).stream.first_row(epochs) for name in order.plan.sources}
    left = sum(end.values())
    for batch in order.plan.batches(0):
        if left == 0:
            return found
        for g in [row for row in reader.read(batch)["row"].tolist() if row >= 0]:
            left -= 1
            for span in reader.spans(batch, g):
                ids = order.source(span.source).blocks.read(span.block).documents()[span.document].tolist()
                found.update((span.source, (i,)) for i in ids[span.start : span.start + span.tokens])
    raise AssertionError


def made(seed: int, heldout: int) -> dict[str, MemoryBlocks]:
    dice = random.Random(seed)
    return {name: source(dice, name, 6, 6, 30, heldout) for name in ("a", "b")}


@pytest.mark.parametrize("seed", range(10))
def test_train_and_holdout_together_are_every_token_once(seed: int) -> None:
    sources = made(seed, heldout=4)
    order = Order(plan_of(dict(sources), {"a": 2, "b": 1}, 5, after=[]), sources)
    train, held = documents(order, 1), documents(holdout_order(order), 1)
    everything = Counter(
        (name, (i,)) for name, one in sources.items() for block in one.blocks for document in block for i in document
    )
    assert train + held == everything
    wanted = Counter((name, (i,)) for name, one in sources.items() for b, d in one.heldout for i in one.blocks[b][d])
    assert held == wanted


def test_it_is_read_in_the_order_stored() -> None:
    one = made(3, heldout=6)["a"]
    order = holdout_order(Order(plan_of({"a": one}, {"a": 1}, 4, after=[]), {"a": one}))
    reader = RowReader(order, SegmentCache(None, 0), Share(0, 1), FIELDS, max_epochs=1)
    rows = [
        ids
        for batch, _ in zip(order.plan.batches(0), range(9), strict=False)
        for ids in reader.read(batch)["input_ids"]
    ]
    ids = [i for b, d in sorted(one.heldout) for i in one.blocks[b][d]]
    assert [int(i) for row in rows for i in row][: len(ids)] == ids


def test_where_nothing_is_held_out_it_is_said() -> None:
    sources = made(4, heldout=0)
    order = Order(plan_of(dict(sources), {"a": 1}, 4), sources)
    with pytest.raises(UserError, match="no document is held out"):
        holdout_order(order)
