"""Any row of the order by its number is what the loader serves there: any packing, source, place and process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from bamba_data.errors import UserError
from bamba_data.tokenization.conformance import Certificate
from loader import Loader, NoSuchRow, OrderSpec, Reading, RowDataset, build_loader
from loader.collate import FIELDS
from tests.loader.texts import opened, source, write_texts

BATCH, TOKENS = 6, 24


def loader_of(data: Any, cache: Path, order: dict[str, Any] | None = None, **reading: Any) -> Loader:
    spec = OrderSpec(**({"row_tokens": TOKENS, "batch_rows": BATCH, "seed": 3} | (order or {})))
    return build_loader(data, spec, Reading(**({"cache": cache, "num_workers": 0} | reading)))


def assert_same(row: dict[str, Any], batch: dict[str, Any], place: int) -> None:
    for name in set(FIELDS) & set(batch) - {"cu_seqlens"}:
        assert row[name].dtype == batch[name].dtype and torch.equal(row[name], batch[name][place]), name


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"packing": "best-fit"},
        {"shuffle": False},
        {"window_rows": 5, "weights": {"short": 1}},
        {"delimiters": "none", "batch_rows": 5},
    ],
    ids=str,
)
def test_rows_by_number_are_those_that_the_loader_serves(mixed: Path, cache: Path, order: Any) -> None:
    loader = loader_of(str(mixed), cache, order, max_steps=40)
    rows = loader.rows
    assert isinstance(rows, RowDataset) and isinstance(rows, Dataset) and not isinstance(rows, IterableDataset)
    batches = list(loader)
    assert len(rows) == sum(len(batch["row"]) for batch in batches)
    for batch in reversed(batches):  # from the end: no row needs those before it
        for place, g in enumerate(batch["row"].tolist()):
            assert_same(rows[g], batch, place)


def test_rows_of_a_text_source_and_a_dataset_in_one_mix(mixed: Path, tmp_path: Path, certificate: Certificate) -> None:
    text = source(write_texts(tmp_path / "texts"))
    opened(text, tmp_path / "cache", certificate)
    loader = loader_of([str(mixed), text], tmp_path / "cache", {"weights": {"web": 1, "prose": 1}}, max_steps=9)
    numbers = set()
    for batch in loader:
        for place, g in enumerate(batch["row"].tolist()):
            assert_same(loader.rows[g], batch, place)
            numbers.add(int(batch["source"][place]))
    assert numbers == {0, 1}


def test_a_slice_is_a_batch_whoever_the_rank(mixed: Path, cache: Path) -> None:
    whole = loader_of(str(mixed), cache, fields=FIELDS, max_steps=9)
    rows = loader_of(str(mixed), cache, fields=FIELDS, rank=2, world_size=3, max_steps=9).rows
    for step, batch in enumerate(whole):
        piece = rows[step * BATCH : (step + 1) * BATCH]
        assert set(piece) == set(FIELDS)
        assert all(torch.equal(piece[name], batch[name]) for name in FIELDS)
    assert rows[: 9 * BATCH : 7]["row"].tolist() == rows[::7]["row"].tolist() == list(range(0, 9 * BATCH, 7))
    assert rows[5:5]["input_ids"].shape == (0, TOKENS)
    for backwards in (slice(5, None, -1), slice(5, 0, -1), slice(0, 5, 0)):
        with pytest.raises(UserError, match="from the first row to the last"):
            rows[backwards]


def test_the_bounds_of_documents_in_one_row_begin_at_0(mixed: Path, cache: Path) -> None:
    rows = loader_of(str(mixed), cache, fields=FIELDS).rows
    for place, row in enumerate(rows.__getitems__(list(range(BATCH)))):
        begins = torch.nonzero(row["position_ids"] == 0).flatten().tolist()
        assert row["cu_seqlens"].tolist() == [*begins, TOKENS] == rows[place]["cu_seqlens"].tolist()


def test_rows_under_changes_of_the_plan_masks_and_skips(mixed: Path, cache: Path) -> None:
    plan = loader_of(str(mixed), cache).plan
    plan = plan.with_mix(12, {"code": 1, "short": 2}, batch_rows=4).with_quarantine(20, "code", 0)
    plan = plan.with_skip(32, 8)
    loader = build_loader(str(mixed), plan=plan, reading=Reading(cache=cache, max_steps=30, num_workers=0))
    served = set()
    for batch in loader:
        for place, g in enumerate(batch["row"].tolist()):
            assert_same(loader.rows[g], batch, place)
            served.add(g)
    assert len(loader.rows) == max(served) + 1 == len(served) + 8
    with pytest.raises(UserError, match="row 33 is skipped by the plan") as skipped:
        loader.rows[33]
    assert not isinstance(skipped.value, IndexError)  # it would end a `for` over the rows in silence


def test_a_row_past_the_last_epoch_is_masked_as_in_the_loader(mixed: Path, cache: Path) -> None:
    loader = loader_of(str(mixed), cache, {"weights": {"short": 1}, "batch_rows": 64}, max_epochs=1)
    *_, last = loader
    filled = [place for place, g in enumerate(last["row"].tolist()) if g == -1]
    assert filled
    for place in filled:
        assert_same(loader.rows[len(loader.rows) - 64 + place], last, place)


def test_numbers_that_no_row_has_are_refused(mixed: Path, cache: Path) -> None:
    rows = loader_of(str(mixed), cache, max_steps=2).rows
    for row in (-1, 2 * BATCH, 2**62):
        with pytest.raises(NoSuchRow, match=r"rows count from 0, and the last is 11"):
            rows[row]
    for piece in (slice(-3, None), slice(0, -1), slice(0, 13)):
        with pytest.raises(NoSuchRow, match="there is no row"):
            rows[piece]
    assert len(list(rows)) == 2 * BATCH  # an IndexError too, which ends a `for`
    endless = loader_of(str(mixed), cache).rows
    with pytest.raises(TypeError, match="give max_epochs or max_steps"):
        len(endless)
    assert int(endless[np.int64(2**40)]["row"]) == 2**40
    with pytest.raises(NoSuchRow, match="there is no row"):
        endless[2**62]


@pytest.mark.process
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_dataloader_serves_them_with_workers_and_a_sampler(mixed: Path, cache: Path, context: str) -> None:
    loader = loader_of(str(mixed), cache, max_steps=9)
    loader.rows[0]  # the reader of this process is not the workers'
    order = [row for row in range(53, -1, -1) if row % 5]
    batches = DataLoader(loader.rows, batch_size=8, sampler=order, num_workers=2, multiprocessing_context=context)
    wanted = {g: (batch, place) for batch in loader for place, g in enumerate(batch["row"].tolist())}
    served = []
    for batch in batches:
        for place, g in enumerate(batch["row"].tolist()):
            theirs, at = wanted[g]
            assert_same({name: batch[name][place] for name in batch}, theirs, at)
            served.append(g)
    assert served == order


def test_to_look_rows_up_does_not_move_the_loader(mixed: Path, cache: Path) -> None:
    loader, other = (loader_of(str(mixed), cache, max_steps=9, num_workers=2) for _ in range(2))
    for _ in range(4):
        next(other)
        assert loader.rows[30] and next(loader) and loader.state_dict() == other.state_dict()
