"""A manifest is one text with one name; a hostile one is refused with the field, before anything is done with it."""

import copy
import hashlib
import json
import os
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data import canonical_json
from bamba_data.errors import BambaError, CorruptManifest, UnsafePath
from bamba_data.format import dataset, manifest
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import table_path
from bamba_data.format.shard import ShardReader
from bamba_data.inspect.verify import verify
from pipelines.cli import app, run
from tests.forging import Forger

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def raw(tiny: Path) -> dict[str, Any]:
    return Forger(tiny).manifest


def written(value: object) -> bytes:
    """Canonical JSON, but of any value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def edited(raw: dict[str, Any], edit: Edit) -> bytes:
    changed = copy.deepcopy(raw)
    edit(changed)
    return written(changed)


def put(place: str, value: object) -> Edit:
    """`a.0.b`: what to set there."""

    def edit(raw: Any) -> None:
        *folders, last = place.split(".")
        for part in folders:
            raw = raw[int(part)] if isinstance(raw, list) else raw[part]
        raw[last] = value

    return edit


# -- one text, one name


def test_a_manifest_is_canonical_and_named_by_its_bytes(tiny: Path) -> None:
    (path,) = (tiny / "_bamba/manifests").iterdir()
    data = path.read_bytes()
    loaded = manifest.loads(data, "here")
    assert loaded.data == data
    assert loaded.digest == path.stem == hashlib.sha256(data).hexdigest()
    assert (
        data == json.dumps(json.loads(data), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    )


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(lambda data: json.dumps(json.loads(data)).encode(), id="spaced"),
        pytest.param(lambda data: data.rstrip(), id="no newline"),
        pytest.param(lambda data: b" " + data, id="led by a space"),
        pytest.param(lambda data: data.replace(b"0.5", b"5e-1"), id="a number spelt otherwise"),
    ],
)
def test_another_spelling_of_the_same_manifest_is_refused(tiny: Path, rewrite: Callable[[bytes], bytes]) -> None:
    (path,) = (tiny / "_bamba/manifests").iterdir()
    with pytest.raises(CorruptManifest, match="canonical"):
        manifest.loads(rewrite(path.read_bytes()), "here")


def test_nothing_in_a_manifest_tells_of_the_machine_or_the_time(tiny: Path) -> None:
    (path,) = (tiny / "_bamba/manifests").iterdir()
    text = path.read_text()
    for secret in (str(tiny.parent), str(Path.home()), os.uname().nodename, "build-of-tests", "/tmp"):
        assert secret not in text


def test_the_demo_holds_the_tokens_of_this_release(demo: Path) -> None:
    """Golden, over what is in the shards and not over their bytes: those depend on pyarrow too. A change means that
    the demo text, a source, the tokenizer or the order of documents has changed."""
    opened, digest = open_dataset(str(demo)), hashlib.sha256()
    for row in opened.shards.iter_rows(named=True):
        with opened.store.open(row["path"]) as file:
            shard = ShardReader(file, row["path"])
            for block in range(shard.blocks):
                ids = shard.tokens(block).documents()
                lineage = shard.table(block, ["document_id", "file", "row"]).to_pylist()
                for document, one in zip(lineage, ids, strict=True):
                    document["file"] += row["first_file"]
                    digest.update(f"{row['source']} {sorted(document.items())} {one.tolist()}\n".encode())
    assert digest.hexdigest() == "2ed0332a2420c7340f7a159d703d4a11214617f769360efd09cb2208dbcc8268"
    assert opened.manifest.totals.tokens == 580_229


# -- hostile


@pytest.mark.parametrize(
    ("place", "value", "names"),
    [
        ("format", "bamba-data/5", "format"),
        ("format", None, "format"),
        ("surprise", 1, "surprise"),
        ("totals.read", -1, "totals.read"),
        ("totals.read", 2**70, "integer 1180591620717411303424"),
        ("totals.read", 2**63 - 1, "totals.read"),
        ("totals.read", 1.0, "totals.read"),
        ("totals.read", "1", "totals.read"),
        ("totals.read", True, "totals.read"),
        ("totals.read", None, "totals.read"),
        ("totals.kept", 61, "account of totals does not balance"),
        ("totals.tokens", 12, "totals.tokens"),
        ("totals.dropped", {"empty_text": 0, "nul": 1}, "totals.dropped"),
        ("totals.notes", {"x" * 65: 1}, "totals.notes"),
        ("sources.0.account.dead_lettered", {"bad_json": 5}, "account of lines does not balance"),
        ("sources.0.account.tokens", 1, "totals.tokens"),
        ("sources.0.name", "../../etc", "sources.0.name"),
        ("sources.0.name", "rows", "names stand twice"),
        ("sources.0.shards", 7, "tables.shards.rows"),
        ("sources.0.files", 4, "tables.files.rows"),
        ("sources.1.blocks", 0, "tables.blocks.rows"),
        ("sources", {}, "sources"),
        ("tables.blocks.sha256", "../../../etc/passwd", "tables.blocks.sha256"),
        ("tables.blocks.size_bytes", 2**62 + 1, "tables.blocks.size_bytes"),
        ("tokenizer.token_dtype", "<f8", "tokenizer.token_dtype"),
        ("tokenizer.sha256", "A" * 64, "tokenizer.sha256"),
        ("backend.certificates", [{}], "backend.certificates.0.backend"),
        ("backend.certificates.0.round_trips", "yes", "backend.certificates.0.round_trips"),
    ],
)
def test_a_hostile_field_is_refused_by_its_name(raw: dict[str, Any], place: str, value: object, names: str) -> None:
    with pytest.raises(CorruptManifest) as refused:
        manifest.loads(edited(raw, put(place, value)), "evil.json")
    assert names in str(refused.value)
    assert str(refused.value).startswith("evil.json: ")
    assert refused.value.exit_code == 5


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"name":"tiny"', b'"name":"tiny","name":"other"', "key 'name' stands twice"),
        (b'"max_bad_rate":0.5', b'"max_bad_rate":NaN', "NaN"),
        (b'"max_bad_rate":0.5', b'"max_bad_rate":-Infinity', "Infinity"),
        (b'"max_bad_rate":0.5', b'"max_bad_rate":1e999', "1e999"),
        (b'"max_bad_rate":0.5', b'"max_bad_rate":' + b"9" * 1_000_000, "out of range"),
        (b'"max_bad_rate":0.5', b'"max_bad_rate":' + deep(100_000), "nested deeper than 64"),
        (b'"max_bad_rate":0.5', b'"max_bad_rate":' + deep(400), "nested deeper than 64"),
        (b'"name":"tiny"', b'"name":"\xff"', "not UTF-8"),
        (b'"name":"tiny"', b'"name":"ti', "not JSON"),
        (b'"name":"tiny"', b'"name":"\\ud800"', "surrogate"),
        (b"{", b"", "not JSON"),
    ],
)
def test_hostile_json_is_refused(raw: dict[str, Any], old: bytes, new: bytes, says: str) -> None:
    data = edited(raw, lambda r: None)
    assert old in data
    with pytest.raises(CorruptManifest, match=says):
        manifest.loads(data.replace(old, new, 1), "evil.json")


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"1", b'"x"', b"{}", b"\0" * 100, b"PAR1", b"\xef\xbb\xbf{}"])
def test_what_is_no_manifest_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptManifest):
        manifest.loads(data, "evil.json")


def test_a_manifest_beyond_the_size_limit_is_refused_unparsed() -> None:
    with pytest.raises(CorruptManifest, match="the limit is"):
        manifest.loads(b" " * (manifest.MAX_BYTES + 1), "evil.json")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.just("/etc/passwd"),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


@given(st.randoms(use_true_random=False), VALUES)
@settings(max_examples=300)
def test_whatever_stands_in_a_field_a_manifest_is_accepted_as_canonical_or_refused_as_corrupt(
    raw: dict[str, Any], dice: random.Random, value: object
) -> None:
    changed = copy.deepcopy(raw)
    place: Any = changed
    while True:
        key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or dice.random() < 0.2:
            break
        place = place[key]
    place[key] = value
    data = written(changed)
    try:
        assert manifest.loads(data, "evil.json").data == data
    except CorruptManifest as error:
        assert str(error)


# -- hostile files behind a sound manifest


@pytest.fixture(scope="module")
def opened() -> Iterator[set[str]]:
    """All that Python opens, makes, renames or removes, and every folder that it lists."""
    found: set[str] = set()
    verbs = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.listdir", "os.scandir"}
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in verbs:
            found.update(os.path.realpath(path) for path in arguments[:2] if isinstance(path, str | Path) and str(path))

    sys.addaudithook(hook)  # for good: there is no way to take it out again
    yield found
    active = False


EVIL_PATHS = [
    *("/etc/passwd", "../outside.parquet", "dataset=lines/../../outside.parquet", "dataset=lines\\..\\x.parquet"),
    *("C:/x.parquet", "file:///etc/passwd", "s3://bucket/x", "http://127.0.0.1:1/x", "dataset=lines/\0.parquet"),
    *("dataset=lines/e\u0301.parquet", "", ".", "dataset=lines/x.parquet.", "dataset=lines/nul"),
]


@pytest.mark.parametrize("path", EVIL_PATHS)
def test_an_unsafe_path_in_the_table_of_shards_is_refused_before_any_file_is_touched(
    tiny_copy: Path, opened: set[str], path: str
) -> None:
    outside = tiny_copy.parent / "outside.parquet"
    forger = Forger(tiny_copy)
    outside.write_bytes(forger.shard_path(0).read_bytes())
    forger.shards[0]["path"] = path
    forger.save()
    opened.clear()
    report = verify(str(tiny_copy), full=True)
    assert any(fault.where == "table shards" and "unsafe path" in fault.detail for fault in report.faults)
    for command in (["stats"], ["show", "--shards"], ["sweep"], ["trace", "--document", "lines:doc-1"]):
        assert run(app, [command[0], str(tiny_copy), *command[1:]]) == UnsafePath.exit_code
    escaped = {p for p in opened if p.startswith(f"{tiny_copy.parent}/") and not f"{p}/".startswith(f"{tiny_copy}/")}
    assert escaped == set()
    assert "/etc/passwd" not in opened
    assert any(p.startswith(f"{tiny_copy}/") for p in opened)


def test_two_shards_that_look_alike_are_refused(tiny_copy: Path) -> None:
    forger = Forger(tiny_copy)
    forger.shards[0]["path"] = forger.shards[1]["path"].replace("lines/", "LINES/")
    forger.save()
    with pytest.raises(UnsafePath, match="looks like"):
        open_dataset(str(tiny_copy)).shards.head()


def test_a_huge_object_is_refused_after_its_limit_and_not_read(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse files of 4 GiB: a manifest, a version, a table, a tokenizer."""
    monkeypatch.setattr(manifest, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(dataset, "MAX_TOKENIZER_BYTES", 4 << 20)
    for kind in ("versions", "manifests", "tables", "tokenizers"):
        (path, *_) = sorted((tiny_copy / "_bamba" / kind).iterdir())
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(4 << 30)
        tracemalloc.start()
        try:
            with pytest.raises(CorruptManifest):
                found = open_dataset(str(tiny_copy))
                found.tokenizer_json()
                for name in ("files", "shards", "blocks", "candidates", "dead_letters"):
                    getattr(found, name)
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()
        path.write_bytes(whole)
    open_dataset(str(tiny_copy)).tokenizer_json()


@pytest.mark.parametrize("name", ["files", "shards", "blocks", "candidates", "dead_letters"])
@pytest.mark.parametrize("kind", ["no parquet", "columns of another", "fewer rows", "empty"])
def test_a_table_that_is_none_is_refused(tiny_copy: Path, name: str, kind: str) -> None:
    forger = Forger(tiny_copy)
    rows = len(forger.tables[name])
    other = "shards" if name == "files" else "files"

    def stored(name: str) -> bytes:
        return (tiny_copy / table_path(forger.manifest["tables"][name]["sha256"])).read_bytes()

    table = {
        "no parquet": b"PAR1 is not enough PAR1",
        "columns of another": stored(other),
        "fewer rows": stored(name),
        "empty": b"",
    }[kind]
    claimed = rows + 1 if kind == "fewer rows" else rows
    if kind == "fewer rows" and name in ("files", "shards", "blocks"):  # the manifest's own sums must hold
        forger.manifest["sources"][0][name] += 1
        forger.manifest["software"][0]["shards"] += name == "shards"
    forger.save_table(name, table, claimed)
    forger.save_manifest(canonical_json.dumps(forger.manifest))
    with pytest.raises(CorruptManifest, match=f"table of {name}"):
        getattr(open_dataset(str(tiny_copy)), name)
    assert any(f"table of {name}" in fault.detail for fault in verify(str(tiny_copy)).faults)


@given(st.binary(max_size=400))
@settings(max_examples=100)
def test_any_bytes_at_all_are_a_typed_error(data: bytes) -> None:
    for prefix in (b"", b'{"format":"bamba-data/1",', b'{"format":"bamba-data/2",'):
        with pytest.raises(BambaError):
            manifest.loads(prefix + data, "evil.json")
