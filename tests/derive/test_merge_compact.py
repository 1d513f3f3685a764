"""Merge puts datasets together without making a shard; compact makes shards anew without changing a document."""

import shutil
from pathlib import Path

import pytest

from bamba_data.catalog import expire
from bamba_data.derive.compacting import compact
from bamba_data.derive.merging import merge
from bamba_data.derive.subsetting import subset
from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect import garbage
from bamba_data.inspect.trace import find_document, trace
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from loader import OrderSpec, Reading, build_loader
from tests.derive.content import dropped, objects, read, stored, tokens_of, without


@pytest.fixture
def halves(tiny_copy: Path) -> tuple[Path, Path]:
    """The two sources of the tiny dataset as datasets of their own, each with a document dropped."""
    other = Path(shutil.copytree(tiny_copy, tiny_copy.parent / "other"))
    subset(str(tiny_copy), ["lines"], "document_id <> 'doc-4'")
    subset(str(other), ["rows"], "document_id <> 'doc-104'")
    return tiny_copy, other


def test_datasets_of_two_places_become_one_at_a_third(halves: tuple[Path, Path], tmp_path: Path) -> None:
    left, right = halves
    wanted = read(left, tmp_path / "cache") + read(right, tmp_path / "cache")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"lie elsewhere.*say --copy"):
        merge([str(left), str(right)], str(out))
    made = merge([str(left), str(right)], str(out), copy=True)
    assert read(out, tmp_path / "cache") == wanted and made.version.number == 1
    assert objects(out).items() <= (objects(left) | objects(right)).items()
    assert verify(str(out), full=True).faults == []
    dataset = open_dataset(out)
    for place in ("lines:doc-7", "rows:doc-111"):
        assert trace(dataset, find_document(dataset, place)[0], Fetcher()).same is True


def test_a_run_goes_on_at_the_place_where_its_dataset_was_copied_to(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """Whichever version it began with: the manifests and tables of what was merged lie there, too."""
    left, right = halves
    reading = Reading(cache=tmp_path / "cache", num_workers=0)
    spec = OrderSpec(row_tokens=48, batch_rows=4, seed=3, holdout=0, weights={"rows": 1})
    for version in ("1", "2"):
        loader = build_loader(f"{right}@{version}", spec, reading)
        next(loader)
        out = tmp_path / f"out-{version}"
        merge([str(left), str(right)], str(out), copy=True)
        after = loader.with_dataset(str(out))
        assert next(after)["input_ids"].tolist() == next(loader.with_dataset(str(right)))["input_ids"].tolist()
        moved = build_loader(str(out), None, reading, plan=after.plan)
        moved.load_state_dict(loader.state_dict())
        next(moved)


def test_versions_of_one_place_become_one_there(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """No object is copied."""
    place, _ = halves
    subset(f"{place}@1", ["rows"], None)
    shards = objects(place)
    merge([f"{place}@2", f"{place}@3"], str(place))
    assert objects(place) == shards
    assert read(place, tmp_path / "cache") == tokens_of(without(stored(open_dataset(place)), {"doc-4"}))


def test_what_does_not_fit_together_is_refused(halves: tuple[Path, Path], demo: Path, tmp_path: Path) -> None:
    left, right = halves
    with pytest.raises(UserError, match="named twice"):
        merge([str(left), str(left)], str(left))
    with pytest.raises(UserError, match="say two datasets"):
        merge([str(left)], str(left))
    with pytest.raises(UserError, match=r"source lines: .* stand in both"):
        merge([str(left), f"{left}@1"], str(left))
    with pytest.raises(UserError, match="another dataset is published here"):
        merge([str(left), f"{left}@1"], str(right))


def test_compact_changes_files_alone(tiny_copy: Path, tmp_path: Path) -> None:
    gone = {f"doc-{n}" for n in (*range(0, 14), 16, 20, 25, *range(100, 118, 2))}
    dropped(tiny_copy, gone)
    masked = open_dataset(tiny_copy)
    wanted, before = read(tiny_copy, tmp_path / "cache"), objects(tiny_copy)
    loader = build_loader(str(tiny_copy), row_tokens=64, batch_rows=4, cache=tmp_path / "cache", num_workers=0)
    rows = [next(loader)["input_ids"].tolist() for _ in range(4)]
    state = loader.state_dict()
    made = compact(str(tiny_copy), lost=0)
    assert made is not None and made.documents == len(gone)
    dataset = open_dataset(tiny_copy)
    assert dataset.identity == masked.identity and not len(dataset.masks)
    assert read(tiny_copy, tmp_path / "cache") == wanted == tokens_of(stored(dataset))
    assert verify(str(tiny_copy), full=True).faults == []
    again = build_loader(str(tiny_copy), row_tokens=64, batch_rows=4, cache=tmp_path / "cache", num_workers=0)
    assert [next(again)["input_ids"].tolist() for _ in range(4)] == rows
    again.load_state_dict(state)  # a run goes on: it is the same content
    assert next(again)["input_ids"].tolist() == next(loader)["input_ids"].tolist()
    assert all(data == before[name] for name, data in objects(tiny_copy).items() if name in before)
    assert trace(dataset, find_document(dataset, "rows:doc-101")[0], Fetcher()).same is True
    expire(open_store(str(tiny_copy)), [1, 2], "")
    garbage.remove(str(tiny_copy), garbage.find(str(tiny_copy), 0))
    assert read(tiny_copy, tmp_path / "cache2") == wanted


def test_only_shards_that_lost_so_much_are_written_anew(tiny_copy: Path) -> None:
    dropped(tiny_copy, {*(f"doc-{n}" for n in range(14)), "doc-20"})
    before = set(open_dataset(tiny_copy).shards["path"])
    compact(str(tiny_copy), lost=1)
    after = open_dataset(tiny_copy)
    assert set(after.shards["path"]) < before and len(after.masks) == 1
    assert compact(str(tiny_copy), lost=0.9) is None
    with pytest.raises(UserError, match="is a share"):
        compact(str(tiny_copy), lost=1.5)
