"""A run that goes on with a derived version: what was served stays, what left is no target, what came is served."""

import pickle
from collections import Counter
from pathlib import Path

import pytest

from bamba_data.derive.compacting import compact
from bamba_data.errors import UserError
from loader import Loader, OrderSpec, Reading, build_loader, origins
from loader.sources.shards import ShardBlocks
from tests.corpora import records, write_jsonl
from tests.derive.appended import append
from tests.derive.content import dropped, stored


def loader_of(url: Path | str, cache: Path, plan: object = None) -> Loader:
    reading = Reading(cache=cache, num_workers=0)
    if plan is not None:
        return build_loader(str(url), None, reading, plan=plan)  # type: ignore[arg-type]
    return build_loader(str(url), OrderSpec(row_tokens=48, batch_rows=6, seed=2, holdout=0), reading)


def documents_at(loader: Loader, row: int) -> list[tuple[str, str, int, bool]]:
    """(source, document id, epoch, whether its tokens are targets) of the documents of a row."""
    import pyarrow.parquet as pq

    found = []
    labels = loader.rows[row]["labels"].tolist()
    for origin in origins(loader.order, row):
        blocks = loader.order.source(origin.source).blocks
        assert isinstance(blocks, ShardBlocks) and origin.shard is not None and origin.shard_row is not None
        table = pq.read_table(f"{blocks.dataset.store.url}/{origin.shard}", partitioning=None)
        targets = labels[max(origin.at - 1, 0) : origin.at + origin.tokens - 1]
        name = table["document_id"][origin.shard_row].as_py()
        found.append((origin.source.partition(".")[0], name, origin.epoch, any(label != -100 for label in targets)))
    return found


@pytest.mark.costly
def test_what_was_served_stays_and_what_left_is_no_target_any_more(tiny_copy: Path, tmp_path: Path) -> None:
    loader = loader_of(tiny_copy, tmp_path / "cache")
    before = [next(loader)["input_ids"].tolist() for _ in range(5)]
    at = loader.cursor()["row"]
    gone = {"doc-2", "doc-9", "doc-30", "doc-105", *(f"doc-{n}" for n in range(14, 20))}
    dropped(tiny_copy, gone)
    after = loader.with_dataset(str(tiny_copy))
    assert after.cursor()["row"] == at and after.plan.extends(loader.plan)
    assert [after.rows[g]["input_ids"].tolist() for g in range(at)] == [row for batch in before for row in batch]
    length = 3 * max(loader.order.source(name).stream.first_row(1) for name in loader.plan.sources)
    for row in range(at, at + length):
        for _, name, epoch, is_target in documents_at(after, row):
            assert not (is_target and name in gone)
            assert name not in gone or epoch < 3
    next(after)


def test_a_later_epoch_has_what_is_left_and_no_more(tiny_copy: Path, tmp_path: Path) -> None:
    loader = loader_of(tiny_copy, tmp_path / "cache")
    next(loader)
    gone = {"doc-2", "doc-9", "doc-105"}
    dropped(tiny_copy, gone)
    after = loader.with_dataset(str(tiny_copy))
    for source in ("lines", "rows"):
        stream = after.order.source(source).stream
        left = sum(len(ids) + 1 for name, document, ids in stored(tiny_copy) if name == source and document not in gone)
        assert int(stream.lengths_in(3).sum()) == left


@pytest.mark.costly
def test_what_came_is_served_in_the_share_of_its_source(tiny_copy: Path, tmp_path: Path) -> None:
    loader = loader_of(tiny_copy, tmp_path / "cache")
    rows = [next(loader)["input_ids"].tolist() for _ in range(3)]
    at = loader.cursor()["row"]
    write_jsonl(tiny_copy.parent / "inputs" / "+.json.gz", records(8, 200, text_chars=600))
    append(tiny_copy, tiny_copy.parent / "tiny.yaml")
    after = loader.with_dataset(str(tiny_copy))
    (added,) = set(after.plan.sources) - set(loader.plan.sources)
    assert added.startswith("lines.")
    assert [after.rows[g]["input_ids"].tolist() for g in range(at)] == [row for batch in rows for row in batch]
    whole = loader.plan.weights_at(at)
    share = after.plan.weights_at(at)
    assert (share["lines"] + share[added]) * whole["rows"] == share["rows"] * whole["lines"]
    fresh = after.order.source(added)
    served: Counter[str] = Counter()
    row = at
    while len(served) < 8 and row < at + 3000:
        served.update(name for _, name, _, _ in documents_at(after, row) if int(name[4:]) >= 200)
        row += 1
    assert set(served) == {f"doc-{n}" for n in range(200, 208)} and fresh.blocks.documents.sum() == 8


def test_three_versions_later_the_state_goes_on_from_the_newest_alone(tiny_copy: Path, tmp_path: Path) -> None:
    loader = loader_of(tiny_copy, tmp_path / "cache")
    next(loader)
    dropped(tiny_copy, {"doc-1"})
    loader = loader.with_dataset(str(tiny_copy))
    next(loader)
    write_jsonl(tiny_copy.parent / "inputs" / "+.json.gz", records(8, 200, text_chars=600))
    append(tiny_copy, tiny_copy.parent / "tiny.yaml")
    loader = loader.with_dataset(str(tiny_copy))
    next(loader)
    dropped(tiny_copy, {"doc-5", "doc-201", "doc-110"})
    loader = loader.with_dataset(str(tiny_copy))
    assert len(loader.plan.sources) == 3 and len(loader.plan.quarantines) == 4
    state = loader.state_dict()
    wanted = [next(loader)["input_ids"].tolist() for _ in range(4)]
    again = loader_of(tiny_copy, tmp_path / "other", state["plan"])
    again.load_state_dict(state)
    copy = pickle.loads(pickle.dumps(again))
    assert [next(again)["input_ids"].tolist() for _ in range(4)] == wanted
    assert [next(copy)["input_ids"].tolist() for _ in range(4)] == wanted


@pytest.mark.costly
def test_other_files_of_the_same_content_change_nothing(tiny_copy: Path, tmp_path: Path) -> None:
    dropped(tiny_copy, {"doc-1", "doc-3"})
    loader = loader_of(tiny_copy, tmp_path / "cache")
    next(loader)
    compact(str(tiny_copy), 0)
    after = loader.with_dataset(str(tiny_copy))
    assert after.plan == loader.plan
    assert next(after)["input_ids"].tolist() == next(loader)["input_ids"].tolist()


@pytest.mark.costly
def test_what_left_is_found_in_files_that_were_written_anew(tiny_copy: Path, tmp_path: Path) -> None:
    loader = loader_of(tiny_copy, tmp_path / "cache")
    next(loader)
    dropped(tiny_copy, {"doc-1", "doc-3", *(f"doc-{n}" for n in range(14, 28))})
    by_masks = loader.with_dataset(str(tiny_copy)).plan
    compact(str(tiny_copy), 0)
    by_rows = loader.with_dataset(str(tiny_copy)).plan
    places = [{(q.source, q.block, q.document) for q in plan.quarantines} for plan in (by_masks, by_rows)]
    assert places[0] == places[1] and places[0]


def test_what_is_no_descendant_is_refused(tiny_copy: Path, demo: Path, tmp_path: Path) -> None:
    dropped(tiny_copy, {"doc-1"})
    loader = loader_of(tiny_copy, tmp_path / "cache")
    with pytest.raises(UserError, match="was not derived from the data"):
        loader.with_dataset(f"{tiny_copy}@1")
    with pytest.raises(UserError, match="was not derived from the data"):
        loader.with_dataset(demo)
