"""A dataset is what it holds: who wrote it, how its shards are cut and what is said about it is a publication's."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.versions import versions
from bamba_data.inspect.trace import find_document, trace
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from loader.dataset import build_loader
from tests.building import build, prepared
from tests.corpora import recipe, records, write_jsonl
from tests.golden.digests import of_batches


def made(folder: Path, certificate: Certificate, out: str, *overrides: str, edit: Any = None) -> Dataset:
    """A dataset of three small files, a unit each."""
    folder.mkdir(exist_ok=True)
    if not (folder / "test.yaml").exists():
        for number in range(3):
            write_jsonl(folder / "inputs" / f"{number}.json.gz", records(12, 12 * number, text_chars=700))
        recipe(folder, blocks="{block_tokens: 500, blocks_per_shard: 2}", extra="unit_bytes: 1")
    if edit:
        edit(folder / "inputs")
    build(folder / out, certificate, str(folder / "test.yaml"), overrides)
    return open_dataset(str(folder / out))


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def test_how_shards_are_cut_is_not_what_a_dataset_is(tmp_path: Path, certificate: Certificate) -> None:
    one = made(tmp_path, certificate, "one")
    other = made(tmp_path, certificate, "other", "shards.blocks_per_shard=1")
    assert len(one.shards) < len(other.shards)
    assert one.manifest.digest != other.manifest.digest
    assert one.identity == other.identity
    assert verify(other.store.url, full=True).faults == []


def test_when_and_where_inputs_were_copied_is_not_in_a_manifest(tmp_path: Path, certificate: Certificate) -> None:
    one = made(tmp_path / "here", certificate, "one")
    other = made(tmp_path / "there", certificate, "other", edit=touched)
    assert one.manifest.digest == other.manifest.digest
    assert one.shards.equals(other.shards)


def touched(inputs: Path) -> None:
    for path in inputs.iterdir():
        os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("override", "edit"),
    [
        ("shards.block_tokens=600", None),
        ("name=test", lambda inputs: write_jsonl(inputs / "1.json.gz", records(12, 13, text_chars=700))),
        ("name=test", lambda inputs: write_jsonl(inputs / "1.json.gz", records(12, 12, text_chars=699))),
        ("name=test", lambda inputs: renamed_document(inputs / "1.json.gz")),
        ("name=test", lambda inputs: (inputs / "1.json.gz").rename(inputs / "9.json.gz")),
        ("corpora.0.name=another", None),
    ],
)
def test_what_it_holds_and_in_which_order_is(
    override: str, edit: Any, tmp_path: Path, certificate: Certificate
) -> None:
    one = made(tmp_path, certificate, "one")
    assert made(tmp_path, certificate, "other", override, edit=edit).identity != one.identity


def renamed_document(path: Path) -> None:
    rows = records(12, 12, text_chars=700)
    write_jsonl(path, [*rows[:5], rows[5] | {"id": "another"}, *rows[6:]])


def test_another_id_of_a_document_changes_the_identity_and_no_row(tmp_path: Path, certificate: Certificate) -> None:
    one = made(tmp_path, certificate, "one")
    other = made(tmp_path, certificate, "other", edit=lambda inputs: renamed_document(inputs / "1.json.gz"))
    mine, theirs = one.identities["texts"], other.identities["texts"]
    assert mine.content == theirs.content and mine.document_ids != theirs.document_ids


def test_the_same_build_again_publishes_nothing(tmp_path: Path, certificate: Certificate) -> None:
    one = made(tmp_path, certificate, "out")
    before = files(tmp_path / "out")
    version, manifest = build(tmp_path / "out", certificate, str(tmp_path / "test.yaml"))
    assert version.number == 1 and manifest.digest == one.manifest.digest
    assert versions(open_store(str(tmp_path / "out"))) == [1]
    assert files(tmp_path / "out") == before


def test_another_licence_is_a_new_version_of_the_same_identity_and_states_go_on(
    tmp_path: Path, certificate: Certificate
) -> None:
    one = made(tmp_path, certificate, "out")
    asked: dict[str, Any] = {"row_tokens": 64, "batch_rows": 4, "num_workers": 0}
    loader = build_loader(one, cache=tmp_path / "cache", **asked)
    for _ in range(3):
        next(loader)
    state, wanted = json.loads(json.dumps(loader.state_dict())), of_batches(next(loader) for _ in range(9))

    other = made(tmp_path, certificate, "out", "corpora.0.license=MIT")
    assert other.version.number == 2 and other.identity == one.identity
    assert set(other.shards["path"]) == set(one.shards["path"])  # nothing was made anew
    cut = made(tmp_path, certificate, "cut", "shards.blocks_per_shard=1")
    for dataset in (other, cut):
        resumed = build_loader(dataset, cache=tmp_path / "cache", **asked)
        resumed.load_state_dict(state)
        assert of_batches(next(resumed) for _ in range(9)) == wanted


def test_a_file_that_comes_or_goes_runs_its_own_unit_alone(tmp_path: Path, certificate: Certificate) -> None:
    made(tmp_path, certificate, "out")
    path, out = str(tmp_path / "test.yaml"), tmp_path / "out"
    write_jsonl(tmp_path / "inputs" / "0-first.json.gz", records(12, 60, text_chars=700))

    def asked() -> Any:
        for pointer in out.glob("_bamba/locks/*.pointer"):
            pointer.unlink()  # as --relock
        return prepared(out, certificate, path)

    ready = asked()
    assert [[file.locked.path for file in unit.files] for unit in ready.remaining()] == [["0-first.json.gz"]]
    build(out, certificate, path)
    grown = open_dataset(str(out))
    assert verify(grown.store.url, full=True).faults == []
    (row,) = find_document(grown, "texts:doc-30")
    found = trace(grown, row, Fetcher())
    assert (found.file, found.row, found.same) == ("2.json.gz", 6, True)

    (tmp_path / "inputs" / "1.json.gz").unlink()
    assert asked().remaining() == []
    build(out, certificate, path)
    assert verify(str(out), full=True).faults == []
    assert open_dataset(str(out)).manifest.totals.kept == 36


def test_two_inputs_of_the_same_bytes_are_two_shards(tmp_path: Path, certificate: Certificate) -> None:
    def copy(inputs: Path) -> None:
        (inputs / "3.json.gz").write_bytes((inputs / "2.json.gz").read_bytes())

    assert made(tmp_path, certificate, "out", edit=copy).manifest.totals.kept == 48
    assert verify(str(tmp_path / "out"), full=True).faults == []


def test_a_mismatch_names_the_field_with_both_values(tmp_path: Path, certificate: Certificate) -> None:
    from loader.order.resume import CursorMismatch

    one = made(tmp_path, certificate, "one")
    other = made(tmp_path, certificate, "other", edit=lambda inputs: (inputs / "1.json.gz").unlink())
    asked: dict[str, Any] = {"row_tokens": 64, "batch_rows": 4, "num_workers": 0, "cache": tmp_path / "cache"}
    state = build_loader(one, **asked).state_dict()

    def refused(dataset: Dataset, **changes: Any) -> str:
        with pytest.raises(CursorMismatch) as said:
            build_loader(dataset, **(asked | changes)).load_state_dict(state)
        return str(said.value)

    here, there = other.identities["texts"].content[:16], one.identities["texts"].content[:16]
    assert f"content of source 'texts': {here} here, {there} in the state." in refused(other)
    line = refused(one, seed=5, row_tokens=32)
    assert "What differs: seed: 5 here, 0 in the state; row_tokens: 32 here, 64 in the state." in line
