"""Ranks that share rows get parts which, end to end, are the rows: whatever packing, fill and masks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bamba_data.errors import UserError
from loader import ConversationSource, Loader, OrderSpec, Reading, build_loader
from loader.collate import FIELDS
from tests.chats import CHATML, conversation, folder, write
from tests.loader.real import size_of

TOKENS = 24
TOKEN_FIELDS = ("input_ids", "labels", "position_ids", "seq_idx")


def loader_of(data: Path, cache: Path, order: dict[str, Any] | None = None, **reading: Any) -> Loader:
    spec = OrderSpec(**({"row_tokens": TOKENS, "batch_rows": 6, "seed": 3} | (order or {})))
    return build_loader(str(data), spec, Reading(**({"cache": cache, "num_workers": 0} | reading)))


def parts_of(data: Path, cache: Path, parts: int, order: dict[str, Any], **reading: Any) -> list[Loader]:
    return [loader_of(data, cache, order, context_rank=part, context_ranks=parts, **reading) for part in range(parts)]


@pytest.mark.parametrize("parts", [2, 3, 8, 24])
@pytest.mark.parametrize(
    ("order", "reading"),
    [
        ({}, {}),
        ({"packing": "best-fit"}, {}),
        ({"delimiters": "none", "packing": "best-fit", "shuffle": False}, {"fields": FIELDS}),
        ({"window_rows": 5, "weights": {"short": 1}}, {"max_epochs": 2, "pad_rows": True, "world_size": 5, "rank": 4}),
        ({"batch_rows": 5}, {"micro_rows": 2, "world_size": 2, "rank": 1, "num_workers": 2}),
    ],
    ids=str,
)
def test_parts_end_to_end_are_the_rows(mixed: Path, cache: Path, parts: int, order: Any, reading: Any) -> None:
    reading = {"max_steps": 25} | reading
    whole = loader_of(mixed, cache, order, **reading)
    shared = parts_of(mixed, cache, parts, order, **reading)
    steps = 0
    for batch, *own in zip(whole, *shared, strict=True):
        steps += 1
        for name in TOKEN_FIELDS:
            assert {part[name].dtype for part in own} == {batch[name].dtype}
            assert torch.equal(torch.cat([part[name] for part in own], 1), batch[name]), name
        for part in own:
            assert torch.equal(part["row"], batch["row"]) and torch.equal(part["source"], batch["source"])
    assert steps >= 5


def test_bounds_of_documents_are_those_of_the_parts_laid_end_to_end(mixed: Path, cache: Path) -> None:
    for part in parts_of(mixed, cache, 3, {}, fields=FIELDS, max_steps=9):
        for batch in part:
            ids = torch.arange(batch["seq_idx"].shape[0])[:, None] * TOKENS + batch["seq_idx"]
            changes = ids.flatten().diff(prepend=torch.tensor([-1])).nonzero().flatten()
            assert batch["cu_seqlens"].tolist() == [*changes.tolist(), ids.numel()]


def test_ids_alone_are_those_of_the_part(mixed: Path, cache: Path) -> None:
    whole = loader_of(mixed, cache, fields=["input_ids"], max_steps=9)
    shared = parts_of(mixed, cache, 2, {}, fields=["input_ids"], max_steps=9)
    for batch, first, second in zip(whole, *shared, strict=True):
        assert torch.equal(torch.cat([first["input_ids"], second["input_ids"]], 1), batch["input_ids"])


@pytest.mark.parametrize("packing", ["chunk", "best-fit"])
def test_what_an_assistant_says_is_the_target_in_parts_as_in_rows(tmp_path: Path, packing: str) -> None:
    talks = write(tmp_path / "chat.jsonl", [conversation(number, turns=1 + number % 3) for number in range(12)])
    source = ConversationSource("chat", str(talks), str(folder(tmp_path / "tokenizer", CHATML)), max_tokens=96)
    order = OrderSpec(row_tokens=96, batch_rows=4, seed=3, packing=packing, holdout=0)
    whole, *shared = (
        build_loader(source, order, Reading(cache=tmp_path / "cache", num_workers=0, max_steps=4, **which))
        for which in ({}, *({"context_rank": part, "context_ranks": 3} for part in range(3)))
    )
    learned = 0
    for batch, *own in zip(whole, *shared, strict=True):
        for name in TOKEN_FIELDS:
            assert torch.equal(torch.cat([part[name] for part in own], 1), batch[name]), name
        learned += int((batch["labels"] >= 0).sum())
    assert learned > 0


def test_documents_in_quarantine_and_held_out_ones_are_cut_as_the_rows_are(mixed: Path, cache: Path) -> None:
    whole = loader_of(mixed, cache, max_steps=60)
    plan = whole.order.plan.with_quarantine(0, "prose", 0, why="a test")
    masked = 0
    readers = [
        build_loader(str(mixed), None, Reading(cache=cache, num_workers=0, max_steps=60, **which), plan=plan)
        for which in ({}, {"context_rank": 0, "context_ranks": 2}, {"context_rank": 1, "context_ranks": 2})
    ]
    for plain, batch, first, second in zip(whole, *readers, strict=True):
        labels = torch.cat([first["labels"], second["labels"]], 1)
        assert torch.equal(labels, batch["labels"])
        masked += int((labels != plain["labels"]).any(1).sum())
    assert masked > 0


def test_a_state_goes_on_with_any_parts_and_any_ranks(mixed: Path, cache: Path) -> None:
    """Two data ranks of three parts each, then three of two, then one of one: the same rows, and each token once."""
    wanted = [torch.cat([b["input_ids"], b["labels"]], 1) for b in loader_of(mixed, cache, max_steps=12)]
    state, got = None, []
    for data_ranks, parts, steps in ((2, 3, 4), (3, 2, 5), (1, 1, 3)):
        readers = [
            loader_of(mixed, cache, rank=rank, world_size=data_ranks, context_rank=part, context_ranks=parts)
            for rank in range(data_ranks)
            for part in range(parts)
        ]
        for reader in readers:
            if state is not None:
                reader.load_state_dict(state)
        for _ in range(steps):
            batches = [next(reader) for reader in readers]
            rows: dict[int, Any] = {}
            for rank in range(data_ranks):
                own = batches[rank * parts : (rank + 1) * parts]
                columns = [torch.cat([part[name] for part in own], 1) for name in ("input_ids", "labels")]
                rows |= dict(zip(own[0]["row"].tolist(), torch.cat(columns, 1), strict=True))
            got.append(torch.stack([rows[number] for number in sorted(rows)]))
        states = [reader.state_dict() for reader in readers]
        assert all(one == states[0] for one in states) and size_of(readers[0].cursor()) < 1024
        state = states[0]
    assert len(got) == 12 and all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_part_looks_at_nothing_behind_it(mixed: Path, tmp_path: Path) -> None:
    """The first of eight parts takes fewer blocks than the rows."""
    made = []
    for number, parts in enumerate((8, 1)):
        loader = loader_of(mixed, tmp_path / str(number), {"row_tokens": 1600, "batch_rows": 1}, context_ranks=parts)
        next(loader)
        made.append(loader.segments.made)
    assert made[0] < made[1]


def test_rows_by_number_are_whole_whatever_part_a_rank_has(mixed: Path, cache: Path) -> None:
    part = loader_of(mixed, cache, context_rank=1, context_ranks=2)
    assert torch.equal(part.rows[7]["input_ids"], loader_of(mixed, cache).rows[7]["input_ids"])


def test_parts_that_do_not_divide_a_row_or_are_not_there_are_refused(mixed: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="5 ranks cannot share rows of row_tokens 24"):
        loader_of(mixed, cache, context_ranks=5)
    with pytest.raises(UserError, match="no context_rank 2 of 2"):
        Reading(context_rank=2, context_ranks=2)
    with pytest.raises(UserError, match="context_ranks"):
        Reading(context_ranks=0)
