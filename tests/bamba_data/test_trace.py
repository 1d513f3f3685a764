"""Lineage both ways: from a row of a shard to the line upstream with proof, and from a document to its rows."""

import gzip
import json
import os
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bamba_data.errors import CorruptManifest, CorruptShard, UserError
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.shard import ShardReader
from bamba_data.inspect.trace import Trace, find_document, locate, trace
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization import tokenizer as tokenizers
from bamba_data.tokenization.conformance import Certificate
from tests.building import build
from tests.corpora import DEMO, lines, recipe, records, write_jsonl, write_parquet
from tests.forging import Forger


def rows(dataset: Dataset, source: str) -> list[tuple[str, int]]:
    shards = dataset.shards.filter(dataset.shards["source"] == source)
    return [(r["path"], row) for r in shards.iter_rows(named=True) for row in range(r["documents"])]


def found(dataset: Dataset, row: tuple[str, int], **moved: str) -> Trace:
    return trace(dataset, row, Fetcher(retry_seconds=0), moved)


@pytest.mark.parametrize("source", ["books", "fineweb-edu", "cosmopedia-stories"])
def test_a_row_is_traced_to_the_text_upstream_whose_ids_it_has(demo: Path, source: str) -> None:
    """json.gz, parquet, and parquet whose text is prompt and text."""
    dataset = open_dataset(str(demo))
    for row in random.Random(1).sample(rows(dataset, source), 4):
        one = found(dataset, row)
        assert one.same is True and one.why == ""
        assert one.text == one.decoded
        path = DEMO.parent / one.url  # as the recipe says it
        assert one.url.endswith(one.file)
        if source == "books":
            line = json.loads(gzip.decompress(path.read_bytes()).splitlines()[one.row])
            assert (line["text"], line["id"]) == (one.text, one.document_id)
        else:
            upstream = pq.read_table(path).slice(one.row, 1).to_pylist()[0]
            text = upstream["text"] if source == "fineweb-edu" else f"{upstream['prompt']}\n\n{upstream['text']}"
            assert text == one.text
            assert source != "fineweb-edu" or upstream["id"] == one.document_id
        assert one.sha256 is not None and len(one.sha256) == 64


def test_every_document_of_a_dataset_is_found_again_at_its_row(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    for source in ("lines", "rows"):
        for path, row in rows(dataset, source):
            with dataset.store.open(path) as file:
                table = ShardReader(file, path).parquet.read(columns=["document_id"])
            document = table["document_id"][row].as_py()
            assert find_document(dataset, f"{source}:{document}") == [(path, row)]


def test_a_document_that_stands_in_two_files_is_found_twice(tmp_path: Path, certificate: Certificate) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"inputs/{name}.json.gz", records(3, text_chars=300))
    build(tmp_path / "out", certificate, str(recipe(tmp_path, extra="unit_bytes: 1")))
    dataset = open_dataset(str(tmp_path / "out"))
    places = find_document(dataset, "texts:doc-1")
    assert [found(dataset, row).file for row in places] == ["a.json.gz", "b.json.gz"]


def test_a_row_after_bad_records_is_traced_to_its_own_line(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    (row,) = find_document(dataset, "lines:doc-23")  # behind the three bad lines of 1.json.gz
    one = found(dataset, row)
    assert (one.row, one.same, one.file) == (12, True, "1.json.gz")


# -- the upstream is not what it was


@pytest.fixture
def mine(tiny_copy: Path, certificate: Certificate) -> Path:
    """A dataset of inputs of its own, which the tests may change."""
    out = tiny_copy.parent / "mine"
    build(out, certificate, str(tiny_copy.parent / "tiny.yaml"))
    return out


@pytest.mark.parametrize(("source", "name"), [("lines", "0.json.gz"), ("rows", "more.parquet")])
def test_a_missing_upstream_leaves_the_decoded_text_and_says_why(mine: Path, source: str, name: str) -> None:
    (mine.parent / "inputs" / name).unlink()
    dataset = open_dataset(str(mine))
    one = found(dataset, rows(dataset, source)[0])
    assert (one.same, one.text) == (None, None)
    assert "cannot be read" in one.why and name in one.why
    assert one.decoded.startswith("CHAPTER") or len(one.decoded) > 100


@pytest.mark.parametrize(("source", "name"), [("lines", "0.json.gz"), ("rows", "more.parquet")])
def test_a_changed_upstream_is_not_taken_for_the_one_that_was_read(mine: Path, source: str, name: str) -> None:
    path = mine.parent / "inputs" / name
    if source == "lines":
        write_jsonl(path, records(14, 50, text_chars=700))
    else:
        write_parquet(path, records(20, 150, text_chars=900))
    dataset = open_dataset(str(mine))
    one = found(dataset, rows(dataset, source)[0])
    assert one.same is None and "cannot be read" in one.why


def test_a_changed_upstream_of_the_same_size_and_time_is_found_out_by_its_ids(mine: Path) -> None:
    """A liar's file: what it has at that row is shown, and that it gives other ids."""
    path = mine.parent / "inputs/0.json.gz"
    was, whole = path.stat(), path.read_bytes()
    text = gzip.decompress(whole).replace(b"CHAPTER", b"CHUPTER")
    data = next(d for level in range(10) if len(d := gzip.compress(text, level, mtime=0)) <= len(whole))
    path.write_bytes(data + bytes(len(whole) - len(data)))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    dataset = open_dataset(str(mine))
    one = found(dataset, rows(dataset, "lines")[0])
    assert one.same is False
    assert one.text is not None and one.text.startswith("CHUPTER") and one.decoded.startswith("CHAPTER")


@pytest.mark.parametrize(("source", "name"), [("lines", "0.json.gz"), ("rows", "more.parquet")])
def test_a_moved_upstream_is_read_where_it_lies_now(mine: Path, tmp_path: Path, source: str, name: str) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(mine.parent / "inputs", moved)
    dataset = open_dataset(str(mine))
    row = rows(dataset, source)[0]
    assert found(dataset, row).same is None
    one = found(dataset, row, **{source: str(moved)})
    assert one.same is True


@pytest.mark.s3
def test_a_moved_upstream_may_be_a_mirror_on_s3(mine: Path, bucket: str) -> None:
    store = open_store(bucket)
    for path in (mine.parent / "inputs").iterdir():
        store.put(f"up/{path.name}", path.read_bytes())
        path.unlink()
    dataset = open_dataset(str(mine))
    for source in ("lines", "rows"):
        assert found(dataset, rows(dataset, source)[1], **{source: f"{bucket}/up/"}).same is True


def test_a_moved_upstream_that_is_another_file_is_found_out(mine: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "other/0.json.gz", [{"id": "x", "text": "something else"}])
    dataset = open_dataset(str(mine))
    first, later = rows(dataset, "lines")[0], rows(dataset, "lines")[5]
    assert found(dataset, first, lines=str(tmp_path / "other")).same is not True
    assert found(dataset, later, lines=str(tmp_path / "other")).same is None


def test_a_lock_that_is_damaged_leaves_the_decoded_text_and_says_why(tiny_copy: Path) -> None:
    (path,) = (tiny_copy / "_bamba/locks").glob("*.json")
    path.write_bytes(path.read_bytes().replace(b"0.json.gz", b"9.json.gz"))
    dataset = open_dataset(str(tiny_copy))
    one = found(dataset, rows(dataset, "lines")[0])
    assert one.same is None and "does not have the sha256 that names it" in one.why


def test_a_text_too_long_for_the_reference_is_shown_without_a_verdict(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "PIECE_CHARS", 100)
    monkeypatch.setattr(tokenizers, "UNCUT_CHARS", 200)
    monkeypatch.setattr(tokenizers.Reference, "_cut", lambda *arguments: None)
    dataset = open_dataset(str(mine))
    one = found(dataset, rows(dataset, "lines")[0])
    assert one.same is None and one.text is not None and "the reference cannot encode it" in one.why


# -- damaged and wrong


def test_a_damaged_shard_is_not_traced(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    path, name = forger.shard_path(0), forger.shards[0]["path"]
    data = bytearray(path.read_bytes())
    data[forger.blocks[0]["offset"] + 300] ^= 1
    path.write_bytes(data)
    dataset = open_dataset(str(tiny_copy))
    with pytest.raises(CorruptShard, match=r"-000-.*block 0"):
        found(dataset, (name, 0))
    path.unlink()
    for ask in (lambda: found(dataset, (name, 0)), lambda: find_document(dataset, "lines:doc-0")):
        with pytest.raises(CorruptShard, match="is missing"):
            ask()


def test_a_shard_with_other_blocks_than_the_manifest_lists_is_not_traced(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    path, other = forger.shard_path(0), forger.shard_path(1)
    path.write_bytes(other.read_bytes())
    with pytest.raises(CorruptShard, match="has 1 blocks, the manifest lists 2"):
        found(open_dataset(str(tiny_copy)), (forger.shards[0]["path"], 0))


def test_a_missing_tokenizer_is_a_corrupt_dataset(tiny_copy: Path) -> None:
    shutil.rmtree(tiny_copy / "_bamba/tokenizers")
    dataset = open_dataset(str(tiny_copy))
    with pytest.raises(CorruptManifest, match=r"tokenizers/.*is missing"):
        found(dataset, rows(dataset, "lines")[0])


def test_a_shard_may_be_named_by_any_part_that_only_one_has(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    path = dataset.shards["path"][2]
    for name in (path, path.split("/")[1], path[-28:-8]):
        assert locate(dataset, f"{name}:7") == (path, 7)


@pytest.mark.parametrize("place", ["", "x", ":", "x:", "-000-:0", "nothing:0", "x:-1", "x:²", "x:1.5", ":0"])
def test_a_place_that_is_none_is_refused_with_an_example(tiny: Path, place: str) -> None:
    with pytest.raises(UserError, match=r"dataset=lines/[0-9a-f]{12}-000-"):
        locate(open_dataset(str(tiny)), place)


def test_a_row_beyond_the_last_is_refused_with_the_last(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    with pytest.raises(UserError, match="has rows 0 to 9, there is no row 10"):
        found(dataset, (dataset.shards["path"][0], 10))


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("", "SOURCE is one of lines, rows"),
        ("doc-1", "SOURCE is one of lines, rows"),
        ("nothing:doc-1", "SOURCE is one of lines, rows"),
        ("lines:", "no document of source lines"),
        ("lines:doc-999", "1 empty_text, 1 bad_json, 1 missing_text.* --upstream"),
        ("rows:doc-1", "no document of source rows"),
    ],
)
def test_a_document_that_is_not_there_is_refused(tiny: Path, place: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_document(open_dataset(str(tiny)), place)


def test_a_base_for_an_unknown_source_is_refused(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    with pytest.raises(UserError, match=r"\['nosuch'\] are no sources"):
        found(dataset, rows(dataset, "lines")[0], nosuch="/x")


def test_a_dataset_without_shards_can_be_asked(tmp_path: Path, certificate: Certificate) -> None:
    write_jsonl(tmp_path / "inputs/a.json.gz", lines([{"id": "a", "text": ""}]))
    build(tmp_path / "out", certificate, str(recipe(tmp_path)), ["bad_input.empty_sources=keep"])
    dataset = open_dataset(str(tmp_path / "out"))
    with pytest.raises(UserError, match="0 of the 0 shards"):
        locate(dataset, "x:0")
    with pytest.raises(UserError, match="no document"):
        find_document(dataset, "texts:a")
