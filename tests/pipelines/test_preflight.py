"""A preflight finds what would be missed after an hour, and leaves nothing behind."""

import hashlib
import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import ray
import s3fs

from bamba_data import resources
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts
from bamba_data.storage.paths import stored_name
from bamba_data.storage.store import LocalStore, open_store
from pipelines.cli import app, run
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.mirror_file import mirrored_lock, write_mirror
from pipelines.ray_jobs.preflight import Finding, Mirror, create_race, findings_here, machine, store_verbs
from tests.clusters import ray_cluster
from tests.running import bamba
from tests.servers.faults import Status
from tests.servers.proxy import FlakyProxy, planned
from tests.servers.seaweed import SeaweedServer
from tests.servers.wire import Answer, Exchange

RECIPE = load_recipe("demo", None)[0]


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    """s3fs keeps a client for a process; each test has an environment of its own."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def found(out: str, *overrides: str, recipe: str = "demo", mirror: str | None = None) -> dict[str, Finding]:
    loaded, folder = load_recipe(recipe, list(overrides))
    read = Mirror(mirror, mirrored_lock) if mirror else None
    return {one.check: one for one in findings_here("here", loaded, folder, out, read)}


def missing(findings: dict[str, Finding]) -> set[str]:
    return {check for check, one in findings.items() if one.verdict == "missing"}


def test_where_all_is_there_nothing_is_missing_and_nothing_is_left(tmp_path: Path) -> None:
    findings = found(str(tmp_path / "out"))
    assert missing(findings) == set()
    asked = {"store: create if absent", "store: create if absent, at once", "tokenizer", "ray"}
    assert asked | {"inputs of dolma-v1_7", "inputs of cosmopedia"} <= set(findings)
    assert findings["ray"].detail == f"Ray {ray.__version__}"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_every_finding_that_is_not_well_has_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    findings = found("s3://nobody/x", recipe="fineweb-edu")
    assert missing(findings)
    assert all(one.way_out for one in findings.values() if one.verdict != "ok")


def test_an_input_that_is_not_there_is_named_and_the_others_are_checked_all_the_same(tmp_path: Path) -> None:
    findings = found(str(tmp_path), "corpora.0.base=/nowhere")
    assert missing(findings) == {"inputs of dolma-v1_7"}
    assert "/nowhere" in findings["inputs of dolma-v1_7"].detail
    assert findings["inputs of fineweb-edu"].verdict == "ok"


# ---- the store


@pytest.mark.s3
def test_a_store_with_all_rights_is_well_and_left_empty(bucket: str) -> None:
    assert missing(found(f"{bucket}/data")) == set()
    assert list(open_store(f"{bucket}/data").list()) == []


@pytest.mark.s3
def test_a_wrong_key_is_told_and_not_shown(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-a-wrong-key")
    s3fs.S3FileSystem.clear_instance_cache()
    findings = found(f"{bucket}/data")
    assert missing(findings) == {"store: write"}
    assert "canary" not in json.dumps([repr(one) for one in findings.values()])


class Forgetful(LocalStore):
    """A store that does not keep If-None-Match, as some do not."""

    def create(self, path: str, data: bytes) -> bool:
        self.put(path, data)
        return True


def test_a_store_where_two_publishers_could_overwrite_each_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_verbs, "open_store", lambda url: Forgetful(tmp_path))
    findings = found(str(tmp_path))
    assert missing(findings) == {"store: create if absent", "store: create if absent, at once"}
    assert "If-None-Match" in findings["store: create if absent"].way_out


class LooksThenWrites(FlakyProxy):
    """A store that looks whether an object is there, and writes: as if nobody could come in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._seen: set[str] = set()

    def _respond(self, exchange: Exchange) -> None:
        if exchange.command != "PUT" or "If-None-Match" not in exchange.headers:
            super()._respond(exchange)
        elif exchange.path in self._seen:
            exchange.read_body()
            exchange.send(planned(Status(412, code="PreconditionFailed")))
        else:
            body = exchange.read_body()
            time.sleep(0.3)
            self._seen.add(exchange.path)
            upstream = HTTPConnection(urlsplit(self.target_endpoint).netloc)
            upstream.request("PUT", exchange.path, body, dict(exchange.headers))
            upstream.getresponse().read()  # SeaweedFS itself refuses the later ones: nobody hears of it
            upstream.close()
            exchange.send(Answer(200, {"ETag": '"0"'}, b""))


@pytest.mark.s3
def test_a_store_that_keeps_the_condition_only_for_writers_one_after_the_other_is_refused(
    s3: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LooksThenWrites(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        findings = found(f"{bucket}/data")
        assert list(open_store(f"{bucket}/data").list()) == []
    assert missing(findings) == {"store: create if absent, at once"}
    assert "were told that they created one object" in findings["store: create if absent, at once"].detail


def raced(place: LocalStore, heard: dict[str, list[bool]], contents: list[str]) -> tuple[bool, str]:
    for number, content in enumerate(contents):
        place.put(f"race/round-{number}", content.encode())
    return create_race.judged(place, "race", heard)


def test_a_round_with_one_winner_or_with_a_lost_reply_is_well_and_any_other_is_not(tmp_path: Path) -> None:
    place, lost, won = LocalStore(tmp_path), [False] * 4, [True] * 4
    assert raced(place, {"a": won, "b": lost}, ["a"] * 4)[0]
    assert raced(place, {"a": lost, "b": lost}, ["a"] * 4)[0]  # the reply to `a` was lost
    assert not raced(place, {"a": [False, False, True, False], "b": won}, ["b"] * 4)[0]
    assert not raced(place, {"a": won, "b": lost}, ["a", "a", "a", "b"])[0]  # overwritten
    assert not raced(place, {"a": lost, "b": lost}, ["a", "a", "a", "c"])[0]


@pytest.mark.process
def test_machines_wait_for_each_other_at_the_store_and_one_of_them_wins(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        racers = {name: pool.submit(create_race.race_on_node, str(tmp_path), "race", name, 2) for name in "ab"}
        heard = {name: racer.result() for name, racer in racers.items()}
    assert create_race.judged_race_of_nodes(str(tmp_path), "race", heard)[0]
    assert all(a != b for a, b in zip(*heard.values(), strict=True))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- a mirror


def test_a_mirror_is_read_and_no_host_is_asked_for_inputs(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    unfinished = found(str(tmp_path / "out"), mirror=mirror)
    assert missing(unfinished) == {"mirror"} and "no finished mirror" in unfinished["mirror"].detail
    assert "bamba-data download demo" in unfinished["mirror"].way_out
    recipe, folder = load_recipe("demo", None)
    lock = locks.resolve(recipe, folder, Fetcher())
    place, files = open_store(mirror), []
    for file in lock.files:
        with Fetcher().open(file) as opened:
            data = opened.read()
        place.put(stored_name(file.key), data)
        files.append(replace(file, facts=Facts(len(data), None, hashlib.sha256(data).hexdigest())))
    whole = Lock(lock.sources, lock.revisions, tuple(files))
    write_mirror(place, locks.request_key(recipe, folder), whole)
    findings = found(str(tmp_path / "out"), mirror=mirror)
    assert missing(findings) == set()
    assert f"{len(whole.files)} files" in findings["mirror"].detail
    Path(mirror, stored_name(whole.files[0].key)).unlink()
    corpus = next(one.corpus for one in recipe.corpora if whole.files[0].source in {s.name for s in one.sources()})
    assert missing(found(str(tmp_path / "out"), mirror=mirror)) == {f"inputs of {corpus}"}
    other = found(str(tmp_path / "out"), "limits.files=1", mirror=mirror)
    assert "the mirror of other inputs" in other["mirror"].detail


# ---- the network


def test_a_name_that_cannot_be_resolved_is_a_matter_of_dns(tmp_path: Path) -> None:
    findings = found(str(tmp_path), "corpora.0.base=https://bamba.invalid/dolma")
    assert "bamba-to-dns" in findings["host bamba.invalid:443"].way_out
    assert missing(findings) == {"host bamba.invalid:443", "inputs of dolma-v1_7"}
    assert findings["inputs of dolma-v1_7"].detail == "not asked for: bamba.invalid:443 was not reached"


def test_a_host_that_cannot_be_reached_is_a_matter_of_egress(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        findings = found(str(tmp_path), f"corpora.0.base=http://127.0.0.1:{port}/dolma")
    assert "bamba-to-https" in findings[f"host 127.0.0.1:{port}"].way_out


def test_behind_a_proxy_it_is_the_proxy_that_must_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "")
    findings = found(str(tmp_path), "corpora.0.base=https://bamba.invalid/dolma")
    assert "proxy for bamba.invalid:443" in missing(findings)
    assert "host bamba.invalid:443" not in findings


def test_a_host_that_no_proxy_names_is_asked_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "bamba.invalid")
    findings = found(str(tmp_path), "corpora.0.base=https://bamba.invalid/dolma")
    assert missing(findings) == {"host bamba.invalid:443", "inputs of dolma-v1_7"}


# ---- this machine


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: "/proc")
    assert {one.check for one in machine.machine(RECIPE) if one.is_missing} == {"temporary files"}


def test_a_memory_limit_is_told_in_units_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rules of the build: a recipe whose documents may be larger has fewer units at once."""
    monkeypatch.setattr(resources, "memory_bytes", lambda: 4 << 30)
    monkeypatch.setattr(resources, "cores", lambda: 8)
    memory = next(one for one in machine.machine(RECIPE) if one.check == "memory")
    assert memory.verdict == "note" and "2 units of" in memory.detail and "--workers 2" in memory.way_out
    larger = load_recipe("demo", ["bad_input.max_document_bytes=60000000"])[0]
    memory = next(one for one in machine.machine(larger) if one.check == "memory")
    assert "1 units of" in memory.detail or "0 units of" in memory.detail


# ---- the command


def test_a_cluster_that_does_not_answer_and_a_ray_that_does_not_load_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        arguments = ["preflight", "demo", "--out", str(tmp_path), "--address", f"127.0.0.1:{closed.getsockname()[1]}"]
        assert run(app, arguments) == 2
    assert "cluster: cluster: the Ray cluster at 127.0.0.1" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert missing(found(str(tmp_path))) == {"ray"}


@pytest.mark.costly
@pytest.mark.ray
def test_with_a_cluster_every_node_is_asked_they_race_and_the_exit_code_tells(tmp_path: Path) -> None:
    with ray_cluster(tmp_path / "home") as cluster:
        cluster.add_node(ip="127.0.0.2")
        command = ["preflight", "demo", "--out", tmp_path / "out", "--address", cluster.gcs, "--json"]
        done = bamba(*command, env=cluster.env)
    findings = json.loads(done.stdout)
    nodes = {one["where"] for one in findings} - {"here", "cluster"}
    assert done.returncode == 0 and len(nodes) == 2
    assert sum(one["check"] == "store: create if absent" for one in findings) == 3
    race = next(one for one in findings if one["check"] == "store: create if absent, on every node at once")
    assert race["verdict"] == "ok" and "of 2 writers" in race["detail"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    done = bamba("preflight", "demo", "--out", tmp_path / "out", "--set", "corpora.0.base=/nowhere")
    assert done.returncode == 2 and "1 missing" in done.stdout
