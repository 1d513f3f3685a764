"""`build_loader` on real datasets: every batch is what an obvious recomputation from the documents gives."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from bamba_data.errors import UserError
from loader import Loader, build_loader
from loader.collate import FIELDS
from tests.loader.real import all_rows, in_memory, oracle, rows_of, size_of

Made = dict[str, Any]
MIX: Made = {
    "prefetch_tokens": 2000,
    "weights": {"code": 3, "prose": 5, "short": 1},
    "row_tokens": 24,
    "batch_rows": 7,
    "seed": 11,
}


def names(loader: Loader) -> list[str]:
    return list(loader.plan.source_names)


def take(loader: Loader, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(loader, count))


# ---- what a batch holds


@pytest.mark.parametrize("delimiters", ["eos", "none", "bos", "both"])
def test_every_row_is_that_of_the_oracle(mixed: Path, cache: Path, delimiters: str) -> None:
    more = {"bos_id": 1} if delimiters in ("bos", "both") else {}
    loader = build_loader(str(mixed), **MIX, delimiters=delimiters, holdout=0.005, cache=cache, window_rows=9, **more)
    wanted = oracle(mixed, loader.plan, 700)
    found = all_rows(take(loader, 100), names(loader))
    assert sorted(found) == list(range(700))
    for g, row in found.items():
        assert row == wanted.row(g)._replace(tokens=[]), f"row {g}"


def test_it_is_of_the_types_and_shapes_that_it_says(mixed: Path, cache: Path) -> None:
    batch = next(build_loader(str(mixed), **MIX, fields=FIELDS, cache=cache))
    for name in ("input_ids", "labels", "position_ids"):
        assert batch[name].dtype == torch.int64 and batch[name].shape == (7, 24)
    assert batch["seq_idx"].dtype == torch.int32 and batch["seq_idx"].shape == (7, 24)
    assert batch["row"].dtype == batch["source"].dtype == torch.int64 and batch["row"].shape == (7,)
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["waited_seconds"] >= 0


def test_cu_seqlens_says_where_positions_begin_anew(mixed: Path, cache: Path) -> None:
    for batch in take(build_loader(str(mixed), **MIX, fields=FIELDS, cache=cache), 20):
        begins = torch.nonzero(batch["position_ids"].reshape(-1) == 0).reshape(-1)
        assert batch["cu_seqlens"].tolist() == [*begins.tolist(), 7 * 24]
        seq_idx = batch["seq_idx"].reshape(-1)
        for begin, end in itertools.pairwise(batch["cu_seqlens"].tolist()):
            assert begin // 24 == (end - 1) // 24, "a document goes on past its row"
            assert len(set(seq_idx[begin:end].tolist())) == 1


def test_fields_not_asked_for_are_not_made(mixed: Path, cache: Path) -> None:
    batch = next(build_loader(str(mixed), **MIX, fields=["input_ids", "row"], cache=cache))
    assert set(batch) == {"input_ids", "row", "waited_seconds"}


def test_an_unknown_field_is_refused_with_what_there_is(mixed: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"'attention_mask'.*input_ids"):
        build_loader(str(mixed), **MIX, fields=["attention_mask"], cache=cache)


def test_without_weights_sources_come_by_their_tokens(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), row_tokens=24, batch_rows=32, cache=cache)
    served = Counter(int(n) for batch in take(loader, 100) for n in batch["source"])
    tokens = {name: sum(len(d) for b in one.blocks for d in b) for name, one in in_memory(mixed).items()}
    for number, name in enumerate(names(loader)):
        assert abs(served[number] - 3200 * tokens[name] / sum(tokens.values())) <= 2


def test_a_source_of_weight_zero_is_left_out(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), **MIX | {"weights": {"code": 1, "prose": 0}}, cache=cache)
    assert names(loader) == ["code"]
    assert {int(n) for batch in take(loader, 5) for n in batch["source"]} == {0}


def test_an_unknown_source_is_refused_with_what_there_is(mixed: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"cods.*code.*prose.*short"):
        build_loader(str(mixed), **MIX | {"weights": {"cods": 1}}, cache=cache)


def test_unshuffled_rows_come_as_documents_are_stored(mixed: Path, cache: Path) -> None:
    one = in_memory(mixed, 0)["prose"]
    stored = [token for block in one.blocks for document in block for token in [*document, 0]]
    loader = build_loader(
        str(mixed), **MIX | {"weights": {"prose": 1}}, shuffle=False, eos_id=0, holdout=0, max_epochs=1, cache=cache
    )
    served = [token for batch in loader for row in batch["input_ids"].tolist() for token in row]
    assert served[: len(stored)] == stored
    assert not any(served[len(stored) :])


def test_two_datasets_are_one_mix(mixed: Path, tiny: Path, cache: Path) -> None:
    both = build_loader(
        [str(mixed), str(tiny)], weights={"prose": 1, "rows": 1}, row_tokens=24, batch_rows=4, cache=cache
    )
    batches = take(both, 40)
    assert names(both) == ["prose", "rows"]
    assert Counter(int(n) for batch in batches for n in batch["source"]) == {0: 80, 1: 80}
    alone = build_loader(str(tiny), weights={"rows": 1}, row_tokens=24, batch_rows=4, cache=cache)
    # The rows of a source, in order, do not depend on what they are mixed with.
    mine = [row["input_ids"] for batch in batches for row in _rows(batch) if row["source"] == 1]
    others = [row["input_ids"] for batch in take(alone, 20) for row in _rows(batch)]
    assert mine == others


def test_a_source_that_two_datasets_have_is_refused(mixed: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="sources of one name"):
        build_loader([str(mixed), str(mixed)], cache=cache)


def _rows(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: batch[name][place].tolist() for name in ("input_ids", "source")} for place in range(len(batch["row"]))
    ]


# ---- one order


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 16])
def test_ranks_together_have_every_batch_whole(mixed: Path, cache: Path, world_size: int, num_workers: int) -> None:
    wanted = take(build_loader(str(mixed), **MIX, cache=cache), 12)
    ranks = [
        build_loader(str(mixed), **MIX, rank=rank, world_size=world_size, num_workers=num_workers, cache=cache)
        for rank in range(world_size)
    ]
    for whole, *parts in zip(wanted, *ranks, strict=False):
        sizes = {len(part["row"]) for part in parts}
        assert sizes <= {7 // world_size, -(-7 // world_size)}
        assert all_rows(parts, names(ranks[0])) == rows_of(whole, names(ranks[0]))
    for one in ranks:
        one.close()


def test_padding_makes_ranks_equal_and_adds_no_target(mixed: Path, cache: Path) -> None:
    wanted = take(build_loader(str(mixed), **MIX, cache=cache), 12)
    ranks = [build_loader(str(mixed), **MIX, rank=n, world_size=4, pad_rows=True, cache=cache) for n in range(4)]
    for whole, *parts in zip(wanted, *ranks, strict=False):
        assert {tuple(part["input_ids"].shape) for part in parts} == {(2, 24)}
        assert all_rows(parts, names(ranks[0])) == rows_of(whole, names(ranks[0]))
        fill = [(part, place) for part in parts for place, g in enumerate(part["row"].tolist()) if g < 0]
        assert len(fill) == 1
        for part, place in fill:
            assert part["source"][place] == -1 and (part["labels"][place] == -100).all()


def test_any_chain_of_stops_worlds_and_workers_is_one_sequence(mixed: Path, cache: Path) -> None:
    wanted = take(build_loader(str(mixed), **MIX, cache=cache), 80)
    dice = random.Random(5)
    state: dict[str, Any] | None = None
    at = 0
    for world, count in [(1, 3), (3, 1), (2, 0), (9, 5), (4, 1), (1, 8), (7, 2), (2, 9)]:
        ranks = [
            build_loader(str(mixed), **MIX, rank=n, world_size=world, num_workers=dice.choice([0, 1, 4]), cache=cache)
            for n in range(world)
        ]
        for one in ranks:
            if state is not None:
                one.load_state_dict(json.loads(json.dumps(state)))
        for _ in range(count):
            parts = [next(one) for one in ranks]
            assert all_rows(parts, names(ranks[0])) == rows_of(wanted[at], names(ranks[0])), (
                f"world {world}, batch {at}"
            )
            at += 1
        states = [one.state_dict() for one in ranks]
        assert all(one == states[0] for one in states)
        state = states[0]
        assert (state["row"], state["steps"]) == (7 * at, at) and size_of(state | {"plan": ""}) < 1024
        for one in ranks:
            one.close()


def test_the_state_is_of_what_was_received_not_of_what_was_read_ahead(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), **MIX, num_workers=4, cache=cache)
    for received in range(5):
        assert loader.state_dict()["row"] == 7 * received
        next(loader)
    loader.close()
    assert loader.state_dict()["row"] == 35
    assert next(loader)["row"].tolist() == list(range(35, 42))


def test_a_state_can_be_loaded_into_a_loader_that_has_gone_elsewhere(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), **MIX, num_workers=2, cache=cache)
    take(loader, 3)
    state = loader.state_dict()
    first = [batch["input_ids"] for batch in take(loader, 5)]
    loader.load_state_dict(state)
    again = [batch["input_ids"] for batch in take(loader, 5)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_transform_that_fails_loses_no_batch(mixed: Path, cache: Path) -> None:
    failures = [True]

    def fails_once(batch: dict[str, Any]) -> dict[str, Any]:
        if batch["row"][0] == 14 and failures:
            failures.pop()
            raise ValueError("not this one")
        return batch

    for num_workers in (0, 2):
        failures[:] = [True]
        loader = build_loader(str(mixed), **MIX, transform=fails_once, num_workers=num_workers, cache=cache)
        take(loader, 2)
        with pytest.raises(ValueError, match="not this one"):
            next(loader)
        assert loader.state_dict()["row"] == 14
        assert next(loader)["row"].tolist() == list(range(14, 21))


def test_a_rank_beyond_the_world_is_refused(mixed: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="no rank 2 of 2"):
        build_loader(str(mixed), **MIX, rank=2, world_size=2, cache=cache)


def test_a_mix_that_changes_in_a_run_in_progress_changes_nothing_before(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), **MIX, cache=cache)
    take(loader, 5)
    changed = loader.with_plan(loader.plan.with_mix(35, {"short": 1}, batch_rows=4))
    assert changed.state_dict()["row"] == 35
    batch = next(changed)
    assert batch["row"].tolist() == [35, 36, 37, 38]
    assert {names(changed)[n] for n in batch["source"].tolist()} == {"short"}
    state = changed.state_dict()
    again = build_loader(str(mixed), plan=changed.plan, cache=cache)
    again.load_state_dict(state)
    assert next(again)["row"].tolist() == [39, 40, 41, 42]


def test_a_source_may_join_a_run_in_progress(mixed: Path, cache: Path) -> None:
    loader = build_loader(str(mixed), **MIX | {"weights": {"code": 1}}, cache=cache)
    take(loader, 2)
    new = {name: blocks.identity for name, blocks in loader.order.available.items()}
    joined = loader.with_plan(loader.plan.with_mix(14, {"code": 1, "short": 1}, sources=new))
    assert names(joined) == ["code", "short"]
    assert {names(joined)[n] for n in next(joined)["source"].tolist()} == {"code", "short"}
