"""Any history of any run is one and the same sequence of rows: that of the oracle, written down the obvious way."""

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.collate import FIELDS
from loader.global_order import Order
from loader.order.plan import loads
from loader.packing.segments import SegmentCache
from loader.reading import Share
from loader.row_reader import RowReader
from tests.loader.oracle import Oracle
from tests.loader.plans import gone, plan_of, random_plan, reader, served, source


def check_history(seed: int, rows: int = 120) -> None:
    """One generated chain of stops, world sizes and plans: every row that is served equals the oracle's."""
    dice = random.Random(seed)
    sources = {
        name: source(
            dice, name, dice.randint(1, 6), dice.randint(1, 5), dice.choice([1, 9, 60]), dice.choice([0, 0, 3])
        )
        for name in "abc"[: dice.randint(1, 3)]
    }
    sources |= {"late": source(dice, "late", 3, 3, 20)}
    plan = random_plan(dice, sources)
    order = Order(plan, sources)
    oracle = Oracle(plan, sources, rows + 60, gone(order))
    seen: set[int] = set()
    row = 0
    while row < rows:
        world_size = dice.choice([1, 1, 2, 3, 4, 5, 7, 8, 13, 64])
        for batch in plan.batches(row):
            if batch.first_row + batch.rows > rows:
                row = rows
                break
            found = served(order, batch, world_size)
            assert sorted(found) == list(range(batch.first_row, batch.first_row + batch.rows))
            for g, made in found.items():
                wanted = oracle.row(g)
                assert made == wanted._replace(tokens=[]), f"seed {seed}, row {g}, world {world_size}"
            seen |= set(found)
            row = batch.first_row + batch.rows
            if dice.random() < 0.3:
                break  # stop here, go on with another world
    assert seen.isdisjoint(oracle.skipped)


@pytest.mark.parametrize("seed", range(60))
def test_a_generated_history_serves_the_rows_of_the_oracle(seed: int) -> None:
    check_history(seed)


@pytest.mark.long
def test_ten_thousand_generated_histories_serve_the_rows_of_the_oracle() -> None:
    for seed in range(1000, 11_000):
        check_history(seed, rows=60)


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_token_of_so_many_epochs_is_in_exactly_one_row(seed: int, epochs: int) -> None:
    dice = random.Random(seed)
    one = source(dice, "a", dice.randint(1, 8), 6, 40, heldout=3)
    plan = plan_of({"a": one}, {"a": 1}, 4, row_tokens=dice.choice([1, 7, 16, 50]), after=[])
    order = Order(plan, {"a": one})
    read = reader(order, max_epochs=epochs)
    found: Counter[tuple[int, int, int]] = Counter()
    targets = 0
    end = order.source("a").stream.first_row(epochs)
    for batch in plan.batches(0):
        if batch.first_row >= end:
            break
        arrays = read.read(batch)
        for place, g in enumerate(arrays["row"].tolist()):
            if g < 0:
                assert (arrays["labels"][place] == -100).all()
                continue
            spans = read.spans(batch, g)
            for span in spans:
                ids = one.blocks[span.block][span.document][span.start : span.start + span.tokens]
                assert arrays["input_ids"][place, span.at : span.at + span.tokens].tolist() == ids
                found.update((span.block, span.document, span.start + n) for n in range(span.tokens))
            targets += int((arrays["labels"][place] != -100).sum())
    kept = [(b, d) for b, block in enumerate(one.blocks) for d in range(len(block)) if (b, d) not in one.heldout]
    wanted = {(b, d, n) for b, d in kept for n in range(len(one.blocks[b][d]))}
    assert set(found) == wanted and set(found.values()) <= {epochs}
    assert targets == epochs * sum(max(0, len(one.blocks[b][d]) - 1) for b, d in kept)


def test_an_epoch_has_an_order_of_its_own() -> None:
    one = source(random.Random(1), "a", 12, 8, 30)
    order = Order(plan_of({"a": one}, {"a": 1}, 1), {"a": one})
    stream = order.source("a").stream
    assert stream.epoch(0).order.tolist() != stream.epoch(1).order.tolist()


def test_quarantine_changes_nothing_before_it_and_leaves_out_later() -> None:
    one = source(random.Random(3), "a", 8, 6, 40)
    plan = plan_of({"a": one}, {"a": 1}, 4)
    with_it = plan.with_quarantine(12, "a", 5)
    before, after = (Order(p, {"a": one}) for p in (plan, with_it))
    for batch, other in zip(plan.batches(0), with_it.batches(0), strict=False):
        if batch.first_row >= 12:
            break
        assert served(before, batch, 2) == served(after, other, 3)
    stream, shorter = before.source("a").stream, after.source("a").stream
    epoch = int(stream.epoch_of(np.array([12]))[0])
    assert shorter.first_token(epoch + 1) == stream.first_token(epoch + 1)  # the epoch it is in keeps its length
    missing = sum(len(document) + 1 for document in one.blocks[5])
    assert shorter.first_token(epoch + 4) - shorter.first_token(epoch + 3) == stream.epoch_tokens - missing


def test_padding_gives_all_ranks_as_many_rows_and_no_target_more() -> None:
    one = source(random.Random(4), "a", 6, 6, 40)
    order = Order(plan_of({"a": one}, {"a": 1}, 7), {"a": one})
    batch = next(order.plan.batches(0))
    plain = sum((reader(order, rank, 5).read(batch)["labels"] != -100).sum() for rank in range(5))
    padded = [reader(order, rank, 5, pad=True).read(batch) for rank in range(5)]
    assert {arrays["input_ids"].shape for arrays in padded} == {(2, 16)}
    assert sum((arrays["labels"] != -100).sum() for arrays in padded) == plain
    assert sorted(g for arrays in padded for g in arrays["row"].tolist() if g >= 0) == list(range(7))


def test_another_batch_size_cuts_the_same_order_anew() -> None:
    dice = random.Random(8)
    sources = {name: source(dice, name, 5, 5, 30) for name in ("a", "b")}
    plan = plan_of(dict(sources), {"a": 2, "b": 1}, 4)
    larger = plan.with_mix(8, batch_rows=6)
    orders = [Order(one, sources) for one in (plan, larger)]
    rows = [
        {g: row for batch in islice(one.plan.batches(0), 9) for g, row in served(one, batch, 3).items()}
        for one in orders
    ]
    assert {batch.rows for batch in islice(larger.batches(8), 5)} == {6}
    for g in set(rows[0]) & set(rows[1]):
        assert rows[0][g] == rows[1][g]
    assert len(set(rows[0]) & set(rows[1])) == 36


@pytest.mark.parametrize("max_epochs", [None, 1])
def test_ids_alone_are_those_of_whole_batches(max_epochs: int | None) -> None:
    one = source(random.Random(6), "a", 5, 6, 40)
    order = Order(plan_of({"a": one}, {"a": 1}, 5), {"a": one})
    share = Share(0, 2, True)
    alone = RowReader(order, SegmentCache(None, 0), share, ("input_ids", "row"), max_epochs)
    whole = RowReader(order, SegmentCache(None, 0), share, FIELDS, max_epochs)
    for batch, _ in zip(order.plan.batches(0), range(12), strict=False):
        mine, all_of_it = alone.read(batch), whole.read(batch)
        assert sorted(mine) == ["input_ids", "row"]
        assert (mine["input_ids"] == all_of_it["input_ids"]).all() and (mine["row"] == all_of_it["row"]).all()


def test_a_plan_survives_its_file() -> None:
    dice = random.Random(9)
    sources = {name: source(dice, name, 4, 4, 20) for name in ("a", "b", "late")}
    for seed in range(20):
        plan = random_plan(random.Random(seed), sources)
        again = loads(plan.dumps(), "plan.json")
        assert again == plan and again.prefix_digest(10**6) == plan.prefix_digest(10**6)
