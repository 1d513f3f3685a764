"""The index of text is made once, by a command or in passing, and is found again wherever files and index lie."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from bamba_data.errors import HopelessInput, NoDocuments, RecipeError, StaleIndex, UserError
from bamba_data.locking.input_faults import InputFaults
from bamba_data.recipe import BadInput
from bamba_data.tokenization.conformance import Certificate
from loader import Reading, TokenDataset, build_loader, text_sources
from loader.text import blocks as text
from loader.text import open
from loader.text.index_format import IndexedFile
from loader.text.open import open_text
from loader.text.spec import TextSource
from pipelines.cli import app, run
from tests.corpora import TOKENIZER, recipe, records, write_jsonl, write_parquet
from tests.loader.texts import PACKAGE, documents, index, opened, served, source, write_rows, write_texts
from tests.servers.hub import HubServer
from tests.servers.seaweed import SeaweedServer


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


def test_large_text_without_an_index_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, texts: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open, "INDEX_AT_ONCE_BYTES", 1000)
    one = source(texts, backend=certificate.backend)
    with pytest.raises(UserError, match=r"'web' \(3 files of .* has no index in .*Make it once: bamba-data") as refused:
        build_loader(one, row_tokens=64, cache=tmp_path / "cache")
    words = shlex.split(str(refused.value).partition("Make it once: ")[2])
    assert words[0] == "bamba-data" and run(app, [*words[1:], "--workers", "1"]) == 0
    assert next(build_loader(one, row_tokens=64, cache=tmp_path / "cache"))["row"].tolist() == [0]


def test_small_text_is_indexed_in_passing_and_said_so(
    tmp_path: Path, texts: Path, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    one = source(texts, backend=certificate.backend)
    with caplog.at_level(logging.WARNING):
        first = open_text(one, tmp_path / "cache")
    assert "has no index yet; it is made now" in caplog.messages[0]
    assert "is indexed: 60 documents" in caplog.messages[1]
    caplog.clear()
    assert open_text(one, tmp_path / "cache").identity == first.identity and not caplog.messages


def test_row_groups_that_cost_too_much_to_read_are_told(
    tmp_path: Path, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    for group, told in ((40, True), (8, False)):
        folder = write_texts(tmp_path / str(group), files=1, rows=40, row_group_size=group, text_chars=200)
        opened(source(folder, block_tokens=40), tmp_path / f"cache-{group}", certificate)
        assert any("row groups of many blocks" in message for message in caplog.messages) == told
        caplog.clear()


def test_a_second_run_reads_only_what_is_new_or_changed(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    whole = index(one, tmp_path / "index", certificate, tmp_path)
    (tmp_path / "index" / one.key(None, whole.tokenizer.sha256) / "index.json").unlink()  # as if killed before
    made: list[IndexedFile] = []
    write_parquet(texts / "0.parquet", records(20, 0, 800), row_group_size=7)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.parquet")}
    again = index(one, tmp_path / "index", certificate, tmp_path, on_file=made.append)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.parquet")}
    rewritten = {name for name in before if before[name] != after[name]}
    assert rewritten == {f"{again.files[0].lengths.sha256}.parquet", f"blocks-{again.blocks.sha256}.parquet"}
    assert again.content == whole.content and made == again.files


def test_a_damaged_part_is_made_again(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    one = source(texts)
    whole = index(one, tmp_path / "index", certificate, tmp_path)
    parts = sorted((tmp_path / "index").glob("*/parts/*"))
    for path in parts[::2]:
        path.write_bytes(path.read_bytes()[:-9])
    assert index(one, tmp_path / "index", certificate, tmp_path) == whole


def test_processes_make_the_same_index_as_one(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    alone = index(source(texts), tmp_path / "alone", certificate, tmp_path)
    assert index(source(texts), tmp_path / "together", certificate, tmp_path, workers=2) == alone


def test_files_without_documents_are_no_trouble(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    write_rows(texts / "3.parquet", pa.array([], pa.string()), pa.array([], pa.string()))
    write_rows(texts / "4.parquet", ["", ""], ["a", "b"])
    blocks = opened(source(texts), tmp_path / "cache", certificate)
    assert [file.blocks > 0 for file in blocks.index.files] == [True, True, True, False, False]
    files = [str(texts / "3.parquet"), str(texts / "4.parquet")]
    with pytest.raises(NoDocuments, match=r"no document in 2 rows \(empty_text 2\): no index was made"):
        opened(source(texts, files=files), tmp_path / "cache", certificate)
    only = source(texts, files=files, rules=BadInput(empty_sources="keep"))
    opened(only, tmp_path / "cache", certificate)
    with pytest.raises(UserError, match="no source has a weight above 0"):
        build_loader(only, cache=tmp_path / "cache")


def test_a_file_without_a_byte_is_an_input_without_rows_where_the_rules_say_so(
    tmp_path: Path, texts: Path, certificate: Certificate
) -> None:
    (texts / "3.parquet").touch()
    with pytest.raises(InputFaults, match="the file is empty"):
        opened(source(texts), tmp_path / "cache", certificate)
    one = source(texts, rules=BadInput(empty_files="keep"))
    blocks = opened(one, tmp_path / "cache", certificate)
    assert blocks.index.files[3].rows == 0
    (texts / "3.parquet").touch()
    assert open_text(one, tmp_path / "cache").identity == blocks.identity


def test_the_text_may_be_the_first_of_several_columns_as_in_a_recipe(tmp_path: Path, certificate: Certificate) -> None:
    write_texts(tmp_path / "inputs", files=1)
    table = pq.read_table(tmp_path / "inputs/0.parquet")
    other = pa.table({"id": table["id"], "doc": pa.StructArray.from_arrays([table["text"].combine_chunks()], ["body"])})
    (tmp_path / "other").mkdir()
    pq.write_table(other, tmp_path / "other/0.parquet")
    wanted = documents(opened(source(tmp_path / "inputs"), tmp_path / "cache", certificate))
    one = source(tmp_path / "other", text_field=["content", "doc.body"])
    assert documents(opened(one, tmp_path / "cache", certificate)) == wanted
    assert "--text-field content --text-field doc.body" in one.command("x")
    path = recipe(tmp_path, ["*"], "parquet", extra="").read_text().replace("base: inputs", "base: other")
    path = path.replace("files: [", "text: {text_field: [content, doc.body]}, files: [")
    (tmp_path / "other.yaml").write_text(path)
    (of_recipe,) = text_sources(tmp_path / "other.yaml")
    assert of_recipe.recipe.sources()[0].text == one.recipe.sources()[0].text


def test_a_hopeless_file_makes_no_index_and_is_not_read_on(tmp_path: Path, certificate: Certificate) -> None:
    write_rows(tmp_path / "in/0.parquet", pa.nulls(5000, pa.string()), [str(n) for n in range(5000)])
    with pytest.raises(HopelessInput, match=r"0.parquet: 1,000 of its first 1,000 rows are bad.*'text' is null"):
        opened(source(tmp_path / "in"), tmp_path / "cache", certificate)


def test_a_quarantined_file_is_left_out(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    rules = source(texts).rules.model_copy(update={"quarantine": ["web/1.parquet"]})
    blocks = opened(source(texts, rules=rules), tmp_path / "cache", certificate)
    assert [file.path for file in blocks.index.files] == ["0.parquet", "2.parquet"]
    assert open_text(source(texts, rules=rules), tmp_path / "cache").identity == blocks.identity


def test_without_the_backend_that_indexed_it_the_reference_gives_the_same(
    tmp_path: Path, texts: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = documents(opened(source(texts), tmp_path / "cache", certificate))
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # as if it were not installed
    text._backend.cache_clear()
    assert documents(open_text(source(texts), tmp_path / "cache")) == wanted
    text._backend.cache_clear()


# ---- elsewhere


@pytest.mark.s3
def test_text_and_index_on_s3_give_the_documents_of_local_ones(
    tmp_path: Path, texts: Path, bucket: str, s3: SeaweedServer, certificate: Certificate
) -> None:
    store = s3.filesystem()
    for path in texts.iterdir():
        store.put_file(str(path), f"{bucket}/deep/{path.name}")
    one = source(f"{bucket}/deep", index=f"{bucket}/index")
    index(one, f"{bucket}/index", certificate, tmp_path / "scratch")
    local = opened(source(texts), tmp_path / "cache", certificate)
    remote = open_text(one, tmp_path / "other")
    assert documents(remote) == documents(local) and remote.identity == local.identity
    loader = build_loader(one, row_tokens=64, batch_rows=4, num_workers=2, cache=tmp_path / "third")
    same = build_loader(source(texts), row_tokens=64, batch_rows=4, cache=tmp_path / "cache")
    assert served([next(loader) for _ in range(20)]) == served([next(same) for _ in range(20)])


@pytest.mark.s3
def test_an_object_that_was_replaced_is_named(
    tmp_path: Path, texts: Path, bucket: str, s3: SeaweedServer, certificate: Certificate
) -> None:
    store = s3.filesystem()
    store.put_file(str(texts / "0.parquet"), f"{bucket}/deep/0.parquet")
    one = source(f"{bucket}/deep")
    blocks = opened(one, tmp_path / "cache", certificate)
    blocks.read(0)
    data = bytearray((texts / "0.parquet").read_bytes())
    data[100] ^= 1
    store.pipe_file(f"{bucket}/deep/0.parquet", bytes(data))
    for verb in (lambda: blocks.read(1), lambda: open_text(one, tmp_path / "cache")):
        with pytest.raises(StaleIndex, match=r"deep/0\.parquet: its etag is"):
            verb()


@pytest.mark.s3
def test_workers_that_are_forked_read_s3_too(
    tmp_path: Path, texts: Path, bucket: str, s3: SeaweedServer, certificate: Certificate
) -> None:
    s3.filesystem().put_file(str(texts / "0.parquet"), f"{bucket}/deep/0.parquet")
    one = source(f"{bucket}/deep")
    opened(one, tmp_path / "cache", certificate)
    loader = build_loader(one, row_tokens=64, batch_rows=4, max_steps=9, num_workers=0, cache=tmp_path / "cache")
    wanted = served(list(loader))
    dataset = TokenDataset(loader.order, Reading(cache=tmp_path / "other", max_steps=9))
    assert served(list(DataLoader(dataset, batch_size=None, num_workers=2))) == wanted


KILLED_SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from bamba_data.tokenization.conformance import Certificate
from bamba_data.storage.fetch import Fetcher
from loader.text.index_build import in_processes, make_index
from loader.text.spec import TextSource

folder, files, tokenizer, certificate = sys.argv[1:]
one = TextSource("web", files, tokenizer, block_tokens=900)
certificate = Certificate(**json.loads(certificate))
each = in_processes(1, Path(folder), Fetcher())
make_index(one, folder, Fetcher(), each, certificate=certificate, on_file=lambda file: os.kill(os.getpid(), 9))
"""


def test_an_index_that_is_killed_goes_on_where_it_was(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    whole = index(source(texts), tmp_path / "whole", certificate, tmp_path)
    at = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_SCRIPT, at, f"{texts}/*.parquet", PACKAGE, json.dumps(asdict(certificate))]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (done,) = at.glob("*/parts/*.json")
    before = done.stat().st_mtime_ns
    assert not list(at.glob("*/index.json"))
    assert index(source(texts), at, certificate, tmp_path) == whole
    assert done.stat().st_mtime_ns == before


HUB_SCRIPT = """
import json, sys
from pathlib import Path
from bamba_data.tokenization.conformance import Certificate
from bamba_data.storage.fetch import Fetcher
from loader.text.index_build import in_processes, make_index
from loader.text.open import open_text
from loader.text.spec import TextSource

folder, tokenizer, certificate = sys.argv[1:]
one = TextSource("web", "hf://datasets/acme/mini@main/data/*.parquet", tokenizer, block_tokens=900)
each = in_processes(1, Path(folder), Fetcher())
made = make_index(one, folder + "/text", Fetcher(), each, certificate=Certificate(**json.loads(certificate)))
blocks = open_text(one, Path(folder))
ids = [ids.tolist() for n in range(len(blocks.tokens)) for ids in blocks.read(n).documents()]
print(json.dumps([blocks.identity, ids, [file.url for file in made.files]]))
"""


def test_text_on_the_hub_is_read_at_its_commit(tmp_path: Path, texts: Path, certificate: Certificate) -> None:
    local = opened(source(texts), tmp_path / "local", certificate)
    repo = tmp_path / "root/datasets/acme/mini"
    write_texts(repo / "data")
    with HubServer(tmp_path / "root") as hub:
        commit = hub.commit("acme/mini")
        done = subprocess.run(
            [sys.executable, "-c", HUB_SCRIPT, tmp_path / "remote", TOKENIZER, json.dumps(asdict(certificate))],
            env={name: value for name, value in os.environ.items() if not name.startswith("HF_")} | hub.env(tmp_path),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    identity, ids, urls = json.loads(done.stdout)
    assert urls == [f"hf://datasets/acme/mini@{commit}/data/{n}.parquet" for n in range(3)]
    assert identity == local.identity and ids == documents(local)


# ---- what a user says


def test_the_sources_of_a_recipe_can_be_read_instead_of_built(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "inputs")
    (one,) = text_sources(recipe(tmp_path, ["*.parquet"], "parquet"), index=str(tmp_path / "index"))
    monkeypatch.chdir("/")
    index(one, tmp_path / "index", certificate, tmp_path)
    assert open_text(one, tmp_path).index.totals.kept == 60


def test_json_lines_cannot_be_read_at_random(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "inputs" / "a.json.gz", records(2))
    with pytest.raises(UserError, match="source texts is jsonl: only parquet can be read at random; build it"):
        text_sources(recipe(tmp_path))


@pytest.mark.parametrize(
    ("files", "base", "names", "revision"),
    [
        ("/a/b/*.parquet", "/a/b", ["*.parquet"], None),
        (["/a/b/x.parquet", "/a/c/*/y.parquet"], "/a", ["b/x.parquet", "c/*/y.parquet"], None),
        ("s3://bucket/x.parquet", "s3://bucket", ["x.parquet"], None),
        ("s3://bucket/**/x.parquet", "s3://bucket", ["**/x.parquet"], None),
        ("https://host/a/x.parquet", "https://host/a", ["x.parquet"], None),
        ("hf://datasets/o/n@v1/data/*.parquet", "hf://datasets/o/n", ["data/*.parquet"], "v1"),
    ],
)
def test_files_are_named_by_one_url_or_pattern(
    files: str | list[str], base: str, names: list[str], revision: str | None
) -> None:
    (found,) = TextSource("web", files, PACKAGE).recipe.sources()
    assert (found.location.base, found.location.files, found.location.revision) == (base, names, revision)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": []}, "a text source needs files"),
        ({"files": ["/a/x.parquet", "s3://b/y.parquet"]}, "files of one text source lie in one place"),
        ({"files": ["s3://a/x.parquet", "s3://b/y.parquet"]}, "lie below one folder, these do not"),
        ({"files": ["hf://datasets/a/b/x", "hf://datasets/a/c/x"]}, "in one repository at one commit"),
        ({"name": "a/b"}, "name: String should match pattern"),
        ({"text": ["text", "text"]}, "fields and id_field must be distinct"),
        ({"block_tokens": 1}, "block_tokens: Input should be greater than or equal to 16"),
    ],
)
def test_what_makes_no_source_is_an_error_that_says_why(changes: dict[str, object], message: str) -> None:
    with pytest.raises((UserError, RecipeError), match=message):
        _ = source("/data", **changes).recipe


def test_an_index_command_needs_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["index", "--name", "web"]) == 2
    assert "--name, --files and --tokenizer" in capsys.readouterr().err
