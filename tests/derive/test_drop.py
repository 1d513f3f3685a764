"""Documents that are dropped leave the dataset, for every reader of it, and nothing else changes."""

import hashlib
import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamba_data import canonical_json
from bamba_data.card.refresh import refresh
from bamba_data.catalog import expire, withdraw
from bamba_data.derive.choosing import choose
from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.derive.restating import restated, source_as_left
from bamba_data.derive.saving import save_table
from bamba_data.errors import CorruptManifest, PublishConflict, UserError
from bamba_data.format import manifest as manifests
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import manifest_path
from bamba_data.format.masks import as_read
from bamba_data.inspect import garbage
from bamba_data.inspect.show import tree
from bamba_data.inspect.stats import stats
from bamba_data.inspect.trace import find_document, trace
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from pipelines.dataset_build.publishing import refuse_over_derived
from tests.derive.content import dropped, listed, objects, read, served, stored, tokens_of, without
from tests.forging import Forger


def test_dropped_documents_are_served_to_nobody_and_no_shard_changes(tiny_copy: Path, tmp_path: Path) -> None:
    before, shards = stored(tiny_copy), objects(tiny_copy)
    ids = {"doc-0", "doc-3", "doc-17", "doc-101"}
    made = dropped(tiny_copy, ids)
    assert made.documents == 4 and made.version.number == 2
    wanted = without(before, ids)
    assert read(tiny_copy, tmp_path / "cache") == tokens_of(wanted)
    for source in ("lines", "rows"):
        lengths = {name: len(tokens) + 1 for where, name, tokens in wanted if where == source}
        assert served(tiny_copy, tmp_path / "cache", source) == lengths
    assert objects(tiny_copy) == shards
    assert read(f"{tiny_copy}@1", tmp_path / "cache") == tokens_of(before)
    assert verify(str(tiny_copy), full=True).faults == []


def test_the_account_says_what_left_and_still_balances(tiny_copy: Path) -> None:
    before = open_dataset(tiny_copy).manifest
    made = dropped(tiny_copy, {"doc-0", "doc-101", "doc-102"})
    after = open_dataset(tiny_copy).manifest
    lines, rows = (source.account for source in after.sources)
    assert lines.dropped["removed"] == 1 and rows.dropped == {"removed": 2}
    assert after.totals.kept == before.totals.kept - 3 and after.totals.tokens == before.totals.tokens - made.tokens
    assert after.totals.read == before.totals.read and after.totals.balanced
    assert after.derived is not None and after.derived.command == "drop"
    assert [parent.manifest for parent in after.derived.parents] == [before.digest]
    assert after.identity != before.identity


@pytest.mark.costly
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 41).map("doc-{}".format), min_size=1, max_size=20), min_size=1, max_size=3))
def test_any_sequence_of_drops_comes_to_the_same_as_one(tiny: Path, tmp_path: Path, drops: list[set[str]]) -> None:
    """One dataset, many sequences: each begins again at version 1."""
    url = tmp_path / "dataset"
    if not url.exists():
        import shutil

        shutil.copytree(tiny, url)
    gone: set[str] = set()
    for number, ids in enumerate(drops):
        drop(str(url), read_list(listed(tmp_path / "ids.txt", "\n".join(ids))), "1" if number == 0 else None)
        gone |= ids
    newest = open_dataset(url)
    if drops[0]:
        assert read(url, tmp_path / "cache") == tokens_of(without(stored(newest), gone))
    once = drop(str(url), read_list(listed(tmp_path / "all.txt", "\n".join(gone))), "1")
    assert once is not None and once.manifest.identity == newest.manifest.identity


def test_a_list_names_documents_by_id_by_place_or_by_tokens(tiny_copy: Path, tmp_path: Path) -> None:
    dataset = open_dataset(tiny_copy)
    row = pq.read_table(dataset.shard_urls("lines")[0], partitioning=None).to_pylist()[1]
    file = dataset.files.filter(pl.col("source") == "lines")["path"][0]
    key = {"file": file, "row": row["row"]}
    digest = hashlib.sha256(row["tokens"]).hexdigest()
    lists = [
        listed(tmp_path / "a.jsonl", json.dumps({"document_id": row["document_id"], "source": "lines"}) + "\n"),
        listed(tmp_path / "b.jsonl", json.dumps(key) + "\n"),
        listed(tmp_path / "c.jsonl", json.dumps({"token_digest": digest}) + "\n"),
        tmp_path / "d.parquet",
        listed(tmp_path / "e.txt", f"{row['document_id']}\n"),
    ]
    pl.DataFrame({**{name: [value] for name, value in key.items()}, "source": ["lines"]}).write_parquet(lists[3])
    identities = set()
    for path in lists:
        made = drop(str(tiny_copy), read_list(path), "1")
        assert made is not None and made.documents == 1
        identities.add(made.manifest.identity)
    assert len(identities) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"document_id": "doc-1", "reason": "spam"}', "has the fields document_id, reason"),
        ("a.jsonl", '{"file": "0.json.gz"}', "has the fields file"),
        ("a.jsonl", '{"document_id": 7}', "field document_id is Int64, it must be text"),
        ("a.jsonl", '{"document_id": "doc-1"}\n{"document_id": null}', "missing in 1 of 2"),
        ("a.jsonl", '{"file": "0.json.gz", "row": -1}', "rows count from 0"),
        ("a.jsonl", "no json", "cannot be read as a list"),
        ("a.txt", "\n", "lists no document"),
        ("a.csv", "doc-1", "is named .parquet"),
    ],
)
def test_a_list_that_is_not_understood_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_list(listed(tmp_path / name, content))


def test_entries_that_name_nothing_are_an_error_unless_it_is_said(tiny_copy: Path, tmp_path: Path) -> None:
    entries = read_list(listed(tmp_path / "ids.txt", "doc-1\nno-such-document\n"))
    with pytest.raises(UserError, match=r"1 of 2 entries name no document.*no-such-document"):
        drop(str(tiny_copy), entries)
    made = drop(str(tiny_copy), entries, missing="ignore")
    assert made is not None and (made.documents, made.missing) == (1, 1)
    assert drop(str(tiny_copy), entries, missing="ignore") is None  # it had left
    strange = read_list(listed(tmp_path / "ids.jsonl", '{"source": "book", "document_id": "doc-1"}'))
    with pytest.raises(UserError, match=r"sources \['book'\]; the dataset has"):
        drop(str(tiny_copy), strange)


def test_a_dataset_is_never_left_empty(tiny_copy: Path) -> None:
    everything = {document[1] for document in stored(tiny_copy)}
    with pytest.raises(UserError, match="no document would be left"):
        dropped(tiny_copy, everything)


def test_readers_of_the_files_alone_are_told(tiny_copy: Path) -> None:
    ids = {"doc-0", "doc-101"}
    dropped(tiny_copy, ids)
    dataset = open_dataset(tiny_copy)
    with pytest.raises(UserError, match="were dropped"):
        dataset.shard_urls()
    rows = dataset.dropped_rows()
    found = set()
    for path, row in rows.iter_rows():
        found.add(pq.read_table(tiny_copy / path, partitioning=None)["document_id"][row].as_py())
    assert found == ids
    assert len(dataset.shard_urls(with_dropped=True)) == len(dataset.shards)


def test_the_card_names_no_file_that_holds_dropped_documents(tiny_copy: Path) -> None:
    """But says why, and is whole again for a version without."""
    refresh(open_store(str(tiny_copy)))
    assert "dataset=lines/" in (tiny_copy / "README.md").read_text() and (tiny_copy / "croissant.json").exists()
    dropped(tiny_copy, {"doc-0"})
    text = (tiny_copy / "README.md").read_text()
    assert "dataset=lines/" not in text and "were dropped and lie in the files still" in text
    assert not (tiny_copy / "croissant.json").exists()
    withdraw(open_store(str(tiny_copy)), 2, "")
    assert "dataset=lines/" in (tiny_copy / "README.md").read_text()


def test_who_knows_only_the_second_format_refuses_it(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dropped(tiny_copy, {"doc-0"})
    data = (tiny_copy / manifest_path(made.manifest.digest)).read_bytes()
    monkeypatch.setattr(manifests, "FORMATS", ("bamba-data/1", "bamba-data/2"))
    with pytest.raises(CorruptManifest, match="format is 'bamba-data/3'"):
        manifests.loads(data, "here")
    monkeypatch.undo()
    for forged in (data.replace(b"bamba-data/3", b"bamba-data/2"),):
        with pytest.raises(CorruptManifest, match="derived"):
            manifests.loads(forged, "here")


def test_stats_and_trace_know_what_was_dropped(tiny_copy: Path) -> None:
    before = open_dataset(tiny_copy)
    lengths = sorted(len(ids) for (source, name, ids) in stored(before) if source == "rows" and name != "doc-101")
    place = find_document(before, "rows:doc-101")[0]
    dropped(tiny_copy, {"doc-101"})
    dataset = open_dataset(tiny_copy)
    rows = stats(dataset)[1]
    assert (rows.documents, rows.tokens, rows.shortest, rows.longest) == (19, sum(lengths), lengths[0], lengths[-1])
    assert any("derived by `drop` from" in str(branch.label) for branch in tree(dataset).children)
    traced = trace(dataset, place, Fetcher())
    assert traced.dropped and traced.document_id == "doc-101"
    assert not trace(before, place, Fetcher()).dropped


def test_a_version_that_was_published_meanwhile_is_not_undone(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bamba_data.derive import dropping

    def meanwhile(*arguments: object) -> object:
        monkeypatch.setattr(dropping, "choose", choose)
        dropped(tiny_copy, {"doc-5"})
        return choose(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dropping, "choose", meanwhile)
    with pytest.raises(PublishConflict):
        dropped(tiny_copy, {"doc-0"})
    assert open_dataset(tiny_copy).version.number == 2


def test_versions_are_withdrawn_expired_and_swept_as_ever(tiny_copy: Path, tmp_path: Path) -> None:
    wanted = tokens_of(without(stored(tiny_copy), {"doc-0", "doc-7"}))
    dropped(tiny_copy, {"doc-0"})
    dropped(tiny_copy, {"doc-7"})
    store = open_store(str(tiny_copy))
    expire(store, [1], "")
    garbage.remove(str(tiny_copy), garbage.find(str(tiny_copy), 0))
    assert read(tiny_copy, tmp_path / "cache") == wanted
    assert verify(str(tiny_copy), full=True).faults == []
    withdraw(store, 3, "")
    assert open_dataset(tiny_copy).version.number == 2


@pytest.mark.parametrize("field", ["removed", "documents", "tokens", "digest", "ids_digest"])
def test_a_mask_that_is_not_what_it_says_is_a_fault(tiny_copy: Path, field: str) -> None:
    """Although everything that follows from it was made to agree."""
    dropped(tiny_copy, {"doc-0"})
    dataset = open_dataset(tiny_copy)
    row = dataset.masks.row(0, named=True)
    wrong = {"removed": b"\2", "documents": row["documents"] + 1, "tokens": row["tokens"] + 1}
    masks = dataset.masks.with_columns(
        pl.lit((wrong | {"digest": b"0" * 16, "ids_digest": b"1" * 16})[field])
        .cast(dataset.masks.schema[field])
        .alias(field)
    )
    forger = Forger(tiny_copy, 2)
    forger.manifest["derived"]["masks"] = save_table("masks", masks, dataset.store).model_dump()
    left = as_read(dataset.blocks, dataset.candidates, masks)
    sources = [source_as_left(source, left, 0) for source in dataset.manifest.sources]
    for source in sources:
        gone = dataset.files.filter(pl.col("source") == source.name)["kept"].sum() - source.account.kept
        source.account.dropped["removed"] = int(gone)
    assert dataset.manifest.derived is not None
    forged = restated(dataset.manifest, sources, dataset.manifest.derived).to_json()
    forger.save_manifest(canonical_json.dumps(forged | {"derived": forger.manifest["derived"]}))
    assert verify(str(tiny_copy), full=True).faults


def test_a_build_does_not_bring_back_what_was_dropped(tiny_copy: Path) -> None:
    dropped(tiny_copy, {"doc-0"})
    with pytest.raises(UserError, match="was made by `drop`, and a build would publish"):
        refuse_over_derived(open_store(str(tiny_copy)))
    withdraw(open_store(str(tiny_copy)), 2, "")
    refuse_over_derived(open_store(str(tiny_copy)))
