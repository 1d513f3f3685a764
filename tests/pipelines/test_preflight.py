"""A preflight finds what would be missed after an hour, and leaves nothing behind."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from bamba_data import resources
from bamba_data.storage.store import LocalStore, open_store
from pipelines.cli.options import load_recipe
from pipelines.ray_jobs.preflight import Finding, findings_here, machine, store_verbs
from tests.running import bamba

RECIPE = load_recipe("demo", None)[0]


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    """s3fs keeps a client for a process; each test has an environment of its own."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def found(out: str, *overrides: str, recipe: str = "demo") -> dict[str, Finding]:
    loaded, folder = load_recipe(recipe, list(overrides))
    return {one.check: one for one in findings_here("here", loaded, folder, out)}


def missing(findings: dict[str, Finding]) -> set[str]:
    return {check for check, one in findings.items() if one.verdict == "missing"}


def test_where_all_is_there_nothing_is_missing_and_nothing_is_left(tmp_path: Path) -> None:
    findings = found(str(tmp_path / "out"))
    assert missing(findings) == set()
    assert {"store: create if absent", "tokenizer", "inputs of dolma-v1_7", "inputs of cosmopedia"} <= set(findings)
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
    assert missing(findings) == {"store: create if absent"}
    assert "If-None-Match" in findings["store: create if absent"].way_out


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


@pytest.mark.costly
@pytest.mark.ray
def test_with_a_cluster_every_node_is_asked_and_the_exit_code_tells(tmp_path: Path) -> None:
    done = bamba("preflight", "demo", "--out", tmp_path / "out", "--address", "local", "--json")
    findings = json.loads(done.stdout)
    nodes = {one["where"] for one in findings} - {"here", "cluster"}
    assert done.returncode == 0 and len(nodes) == 1
    assert sum(one["check"] == "store: create if absent" for one in findings) == 2
    done = bamba("preflight", "demo", "--out", tmp_path / "out", "--set", "corpora.0.base=/nowhere")
    assert done.returncode == 2 and "1 missing" in done.stdout
