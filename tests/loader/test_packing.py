"""Best-fit rows over any history are those of the oracle; every token is in exactly one row; no document is cut that
fits into one."""

import random
from collections import Counter
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.global_order import Order
from tests.loader.oracle import MemoryBlocks
from tests.loader.packing_oracle import PackingOracle
from tests.loader.plans import best_fit, gone, plan_of, random_plan, reader, served, source


def check_history(seed: int, rows: int = 120) -> None:
    """One generated chain of stops, world sizes and plans: every row that is served equals the oracle's."""
    dice = random.Random(seed)
    sources = {
        name: source(
            dice, name, dice.randint(1, 14), dice.randint(1, 5), dice.choice([1, 9, 60]), dice.choice([0, 0, 3])
        )
        for name in "abc"[: dice.randint(1, 3)]
    }
    sources |= {"late": source(dice, "late", 3, 3, 20)}
    plan = best_fit(random_plan(dice, sources), dice)
    order = Order(plan, sources)
    oracle = PackingOracle(plan, sources, rows + 60, gone(order))
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
            row = batch.first_row + batch.rows
            if dice.random() < 0.3:
                break  # stop here, go on with another world


@pytest.mark.parametrize("seed", range(60))
def test_a_generated_history_serves_the_packed_rows_of_the_oracle(seed: int) -> None:
    check_history(seed)


@pytest.mark.long
def test_ten_thousand_generated_histories_serve_the_packed_rows_of_the_oracle() -> None:
    for seed in range(1000, 11_000):
        check_history(seed, rows=60)


def one_source(seed: int, **more: Any) -> tuple[MemoryBlocks, Order, int]:
    """A source with documents longer than a row among them, packed; and the tokens of a row."""
    dice = random.Random(seed)
    made = source(dice, "a", dice.randint(1, 14), 6, 40, heldout=3)
    row_tokens = dice.choice([1, 7, 16, 50])
    fields = {"row_tokens": row_tokens, "packing": "best-fit", "group_rows": dice.choice([1, 4]), "after": []}
    return made, Order(plan_of({"a": made}, {"a": 1}, 4, **(fields | more)), {"a": made}), row_tokens


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_token_of_so_many_epochs_is_in_exactly_one_row_and_no_document_is_cut_in_vain(
    seed: int, epochs: int
) -> None:
    one, order, row_tokens = one_source(seed)
    read = reader(order, max_epochs=epochs)
    end = order.source("a").stream.first_row(epochs)
    tokens: Counter[tuple[int, int, int]] = Counter()
    pieces: Counter[tuple[int, int]] = Counter()
    targets = 0
    for batch in order.plan.batches(0):
        if batch.first_row >= end:
            break
        arrays = read.read(batch)
        for place, g in enumerate(arrays["row"].tolist()):
            if g < 0:
                assert (arrays["labels"][place] == -100).all()
                continue
            for span in read.spans(batch, g):
                ids = one.blocks[span.block][span.document][span.start : span.start + span.tokens]
                assert arrays["input_ids"][place, span.at : span.at + span.tokens].tolist() == ids
                tokens.update((span.block, span.document, span.start + n) for n in range(span.tokens))
                pieces[span.block, span.document] += 1
            targets += int((arrays["labels"][place] != -100).sum())
    kept = {(b, d): len(one.blocks[b][d]) for b in range(len(one.blocks)) for d in range(len(one.blocks[b]))}
    kept = {place: length for place, length in kept.items() if place not in one.heldout}
    assert set(tokens) == {(*place, n) for place, length in kept.items() for n in range(length)}
    assert set(tokens.values()) <= {epochs}
    assert pieces == {place: epochs * -(-length // row_tokens) for place, length in kept.items() if length}
    assert targets == epochs * sum(max(0, length - 1) for length in kept.values())


def test_fill_has_no_targets_and_a_number_of_its_own() -> None:
    one = MemoryBlocks("a", [[[1, 2, 3], [4, 5]]])
    order = Order(plan_of({"a": one}, {"a": 1}, 1, row_tokens=8, packing="best-fit", after=[]), {"a": one})
    arrays = reader(order).read(next(order.plan.batches(0)))
    first, second = ([1, 2, 3], [4, 5]) if arrays["input_ids"][0, 0] == 1 else ([4, 5], [1, 2, 3])
    assert arrays["input_ids"].tolist() == [[*first, *second, 0, 0, 0]]
    assert arrays["labels"].tolist() == [[*first[1:], -100, *second[1:], -100, -100, -100, -100]]
    assert arrays["seq_idx"].tolist() == [[0] * len(first) + [1] * len(second) + [2] * 3]
    assert arrays["position_ids"].tolist() == [[*range(len(first)), *range(len(second)), 0, 1, 2]]
    assert arrays["cu_seqlens"].tolist() == [0, len(first), 5, 8]


def test_a_long_document_looks_ahead_over_its_cuts() -> None:
    one = MemoryBlocks("a", [[list(range(1, 12))]])
    order = Order(plan_of({"a": one}, {"a": 1}, 3, row_tokens=4, packing="best-fit", after=[]), {"a": one})
    arrays = reader(order).read(next(order.plan.batches(0)))
    rows = dict(zip(map(tuple, arrays["input_ids"].tolist()), arrays["labels"].tolist(), strict=True))
    assert rows == {(1, 2, 3, 4): [2, 3, 4, 5], (5, 6, 7, 8): [6, 7, 8, 9], (9, 10, 11, 0): [10, 11, -100, -100]}


def test_quarantine_changes_nothing_before_it_and_packs_later_epochs_without() -> None:
    one = source(random.Random(3), "a", 9, 6, 40)
    plan = plan_of({"a": one}, {"a": 1}, 4, packing="best-fit", group_rows=1)
    with_it = plan.with_quarantine(12, "a", 5)
    before, after = (Order(p, {"a": one}) for p in (plan, with_it))
    stream, shorter = before.source("a").stream, after.source("a").stream
    epoch = int(stream.epoch_of(np.array([12]))[0])
    assert shorter.first_row(epoch + 1) == stream.first_row(epoch + 1)  # the epoch it is in keeps its rows
    assert shorter.first_row(epoch + 2) < stream.first_row(epoch + 2)
    masked = 0
    for batch, other in zip(plan.batches(0), with_it.batches(0), strict=False):
        if batch.first_row + batch.rows > shorter.first_row(epoch + 1):
            break
        plain, quiet = served(before, batch, 2), served(after, other, 3)
        if batch.first_row < 12:
            assert plain == quiet
        for g, row in plain.items():
            assert row._replace(labels=[]) == quiet[g]._replace(labels=[])
            masked += sum(a != b for a, b in zip(row.labels, quiet[g].labels, strict=True))
    assert masked
    read = reader(after)
    later = [
        span.block
        for batch in takewhile(lambda batch: batch.first_row < shorter.first_row(epoch + 3), with_it.batches(0))
        if batch.first_row >= shorter.first_row(epoch + 1)
        for g in read.read(batch)["row"].tolist()
        for span in read.spans(batch, g)
    ]
    assert set(later) == set(range(9)) - {5}
