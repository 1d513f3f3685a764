"""Whole builds from hosts of many habits: the dataset that a disk gives, or a refusal; and how locking shows itself."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import RecipeError, SourceUnavailable
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.rate_limit import LocalBudget
from bamba_data.tokenization.conformance import Certificate
from pipelines.cli import app, run
from pipelines.dataset_build.driver import run_here
from pipelines.observe import lock_progress
from tests.building import build, prepared
from tests.corpora import TOKENIZER, lines, records, write_jsonl
from tests.running import bamba
from tests.servers.habits import HabitHost
from tests.servers.wire import Answer, Exchange, LoopbackServer

NAMES = ["a.json.gz", "A.json.gz", "50% off?#1.jsonl", "cafe\u0301 b:c.jsonl", "x" * 240 + ".jsonl"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n, name in enumerate(NAMES):
        write_jsonl(tmp_path / "inputs" / name, lines(records(8, 8 * n, text_chars=200)))
    return tmp_path / "inputs"


def recipe(base: str | Path, path: Path) -> str:
    whole = {
        "name": "odd",
        "tokenizer": {"url": f"package:{TOKENIZER.name}"},
        "corpora": [{"corpus": "folder", "name": "texts", "base": str(base), "form": "jsonl", "files": NAMES}],
        "network": {"requests_per_second": 1000.0, "retry_seconds": 1.0},
        "unit_bytes": 1,
    }
    path.write_text(json.dumps(whole), encoding="utf-8")
    return str(path)


HABITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without HEAD, chunked": {"head": "405", "length": "chunked", "etag": "no mark"},
    "without ranges, an etag an answer": {"head": "size 0", "etag": "each answer", "ranges": "none"},
    "signed, hanging up": {"head": "403", "signed": True, "length": "hang up"},
}


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_a_host_of_any_habit_gives_the_dataset_that_a_disk_gives(
    habit: dict[str, Any], folder: Path, tmp_path: Path, certificate: Certificate
) -> None:
    build(tmp_path / "disk", certificate, recipe(folder, tmp_path / "disk.yaml"))
    with HabitHost(folder, **habit).running() as host:
        build(tmp_path / "web", certificate, recipe(host.url, tmp_path / "web.yaml"))
    assert verify(str(tmp_path / "web"), full=True).faults == []
    files = [open_dataset(str(tmp_path / place)).files.to_dicts() for place in ("disk", "web")]
    disk, web = ([(row["path"], row["sha256"], row["tokens"]) for row in rows] for rows in files)
    assert disk == web
    assert [path for path, _, _ in disk] == NAMES


def test_a_text_that_is_cut_at_the_end_of_a_line_is_never_published(
    folder: Path, tmp_path: Path, certificate: Certificate
) -> None:
    """Without a size, and with an end that looks like one: nothing but a refusal is right."""
    name = NAMES[2]
    data = (folder / name).read_bytes()
    cut = data.index(b"\n", len(data) // 2) + 1
    settings: dict[str, Any] = {"length": "hang up", "head": "no size", "cut": (name, cut)}
    path = recipe("BASE", tmp_path / "web.yaml")
    refused = pytest.raises(RecipeError, match=r"(?s)inputs cannot be locked:.*the host tells no size of it")
    with HabitHost(folder, ranges="none", **settings).running() as host, refused:
        prepared(tmp_path / "out", certificate, path, [f"corpora.0.base={host.url}"])
    with HabitHost(folder, ranges="bytes", **settings).running() as host:
        ready = prepared(tmp_path / "out", certificate, path, [f"corpora.0.base={host.url}"])
        (fault,) = run_here(ready, Fetcher(LocalBudget(1000, 1000), retry_seconds=0.5))
    assert isinstance(fault, SourceUnavailable) and "ended early" in fault.detail
    assert not (tmp_path / "out/_bamba/versions").exists()


# -- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lock", "demo", "--out", ""], "the place of a dataset or mirror is empty"),
        (["plan", "demo", "--out", " "], "the place of a dataset or mirror is empty"),
        (["lock", "demo", "--out", "OUT", "--mirror", ""], "--mirror is empty"),
        (["plan", "demo", "--out", "OUT", "--set", "tokenizer.backend=fastest"], "'fastest' is none of auto, "),
        (["plan", "demo", "--out", "OUT", "--set", "tokenizer={url: NOTES}"], "not a Hugging Face tokenizer.json"),
        (["show", "https://host/x?sig=s3cr3t"], "https://host/x: datasets live on a local disk or on s3://"),
        (["show", "s3://bucket/x?sig=s3cr3t"], "s3://bucket/x: expected s3://bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "notes.json").write_text('{"no": "tokenizer"}')
    monkeypatch.chdir(tmp_path)
    given = [a.replace("OUT", str(tmp_path / "out")).replace("NOTES", str(tmp_path / "notes.json")) for a in arguments]
    code = run(app, given)
    said = "".join(capfd.readouterr())
    assert (code, message in said, "s3cr3t" in said) == (2, True, False), said
    assert {path.name for path in tmp_path.iterdir()} <= {"notes.json", "out"}  # nothing beside what was named


@pytest.mark.parametrize("endpoint", ["s3.example.org", "http://key:s3cr3t@127.0.0.1:9"])
def test_an_endpoint_of_s3_that_is_no_address_or_holds_a_secret_is_one_line(endpoint: str, tmp_path: Path) -> None:
    done = bamba("show", "s3://bucket/x", env={"AWS_ENDPOINT_URL": endpoint, "AWS_SECRET_ACCESS_KEY": "s3cr3t"})
    assert (done.returncode, len(done.stderr.splitlines()), "s3cr3t" in done.stderr) == (2, 1, False), done.stderr
    assert "AWS_ENDPOINT_URL" in done.stderr


def test_hundreds_of_names_are_looked_up_side_by_side_and_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_progress, "INTERVAL_SECONDS", 0.0)
    at_once, most, lock = 0, 0, threading.Lock()

    def respond(exchange: Exchange) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        exchange.send(Answer(200, {"ETag": '"e"'}, b"{}"))

    with LoopbackServer(respond) as server:
        corpus = {
            "corpus": "folder",
            "name": "texts",
            "base": f"http://127.0.0.1:{server.server_port}",
            "form": "jsonl",
        }
        whole = {
            "name": "many",
            "tokenizer": {"url": f"package:{TOKENIZER.name}"},
            "corpora": [corpus | {"files": [f"{n}.jsonl" for n in range(300)]}],
            "network": {"requests_per_second": 1000.0},
        }
        (tmp_path / "many.yaml").write_text(json.dumps(whole))
        assert run(app, ["lock", str(tmp_path / "many.yaml"), "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr()
    assert "texts: 300 files" in said.out
    assert "locking: 300 of 300 inputs looked up" in said.err
    assert most > 8
