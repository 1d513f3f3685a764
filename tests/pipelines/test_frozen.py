"""The same command reads what was locked, of its own folder alone, and says what lies there now."""

import json
import os
from pathlib import Path

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.rate_limit import LocalBudget
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here
from pipelines.dataset_build.frozen_lock import Frozen, frozen_lock
from tests.corpora import recipe, records, write_jsonl, write_parquet
from tests.running import bamba
from tests.servers.hub import HubServer


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(LocalBudget(1000, 1000), retry_seconds=1)


def project(folder: Path, first: int) -> Path:
    """A recipe beside two inputs."""
    for number in range(2):
        write_jsonl(folder / "inputs" / f"{number}.json.gz", records(5, first + 5 * number, text_chars=300))
    return recipe(folder, backend="tokenizers")


def frozen(path: Path, out: Path, fetcher: Fetcher, overrides: tuple[str, ...] = (), relock: bool = False) -> Frozen:
    from bamba_data.storage.store import open_store

    loaded, folder = load_recipe(str(path), list(overrides))
    return frozen_lock(loaded, folder, open_store(str(out)), fetcher, relock=relock)


def remark(path: Path, out: Path, fetcher: Fetcher, overrides: tuple[str, ...] = ()) -> str:
    return frozen(path, out, fetcher, overrides).remark or ""


def test_one_recipe_text_in_two_folders_publishes_the_data_of_each(tmp_path: Path, fetcher: Fetcher) -> None:
    paths = [project(tmp_path / name, first) for name, first in (("one", 0), ("two", 100))]
    assert paths[0].read_text() == paths[1].read_text()
    held = []
    for path in paths:
        loaded, folder = load_recipe(str(path), [])
        ready = prepare(loaded, folder, str(tmp_path / "out"), fetcher)
        assert not run_here(ready, fetcher)
        finish(ready)
        shard = open_dataset(str(tmp_path / "out")).shards["path"][0]
        held.append((tmp_path / "out" / shard).read_bytes())
    assert b"doc-0" in held[0] and b"doc-100" in held[1] and b"doc-100" not in held[0]


def test_what_was_added_removed_or_changed_is_said_with_the_way_to_take_it_in(tmp_path: Path, fetcher: Fetcher) -> None:
    path, out = project(tmp_path, 0), tmp_path / "out"
    first = frozen(path, out, fetcher)
    assert first.remark is None
    again = remark(path, out, fetcher)
    assert again.startswith("the inputs are frozen: 2 files, locked 20") and first.digest[:16] in again
    assert "Since then" not in again

    write_jsonl(tmp_path / "inputs" / "00.json.gz", records(5, 50))
    line = remark(path, out, fetcher)
    assert "Since then: 1 added (texts/00.json.gz). This run reads what was locked; --relock takes in" in line
    (tmp_path / "inputs" / "1.json.gz").unlink()
    os.utime(tmp_path / "inputs" / "0.json.gz", (1, 1))
    line = remark(path, out, fetcher)
    assert "1 added (texts/00.json.gz), 1 removed (texts/1.json.gz), 1 changed (texts/0.json.gz)" in line
    assert frozen(path, out, fetcher).digest == first.digest
    taken = frozen(path, out, fetcher, relock=True)
    assert taken.remark is None and [file.path for file in taken.lock.files] == ["0.json.gz", "00.json.gz"]


@pytest.mark.costly
@pytest.mark.ray
def test_a_build_says_so_in_its_log(tmp_path: Path) -> None:
    path, out = project(tmp_path, 0), tmp_path / "out"
    assert bamba("build", path, "--out", out, "--workers", "1").returncode == 0
    write_jsonl(tmp_path / "inputs" / "2.json.gz", records(5, 50))
    again = bamba("build", path, "--out", out, "--workers", "1")
    assert again.returncode == 0, again.stderr
    plan = next(json.loads(line) for line in again.stdout.splitlines() if '"plan"' in line)
    assert any("1 added (texts/2.json.gz)" in line and "--relock" in line for line in plan["remarks"])


def test_a_branch_that_moved_on_is_named_with_both_commits(tmp_path: Path) -> None:
    path = project(tmp_path, 0)
    repo = tmp_path / "upstream" / "datasets" / "acme" / "mini"
    write_parquet(repo / "data" / "0.parquet", records(5))
    with HubServer(tmp_path / "upstream") as hub:
        corpus = "{corpus: folder, name: texts, base: 'hf://datasets/acme/mini', form: parquet, files: ['data/*']}"
        words = ["lock", path, "--out", tmp_path / "out", "--set", f"corpora.0={corpus}"]
        environment = hub.env(tmp_path / "home")
        assert bamba(*words, env=environment).returncode == 0
        then = hub.commit("acme/mini")
        write_parquet(repo / "data" / "1.parquet", records(5, 5))
        now = hub.push("acme/mini")
        again = bamba(*words, env=environment)
    assert again.returncode == 0, again.stderr
    assert f"texts is at {now[:12]} now, locked at {then[:12]}" in again.stdout
    assert "1 added (texts/data/1.parquet)" in again.stdout


def test_what_cannot_be_listed_now_is_named_and_no_error(tmp_path: Path, fetcher: Fetcher) -> None:
    path, out = project(tmp_path / "files", 0), tmp_path / "out"
    with HubServer(tmp_path) as host:
        overrides = (f"corpora.0.base={host.url}/files/inputs", "corpora.0.files=[0.json.gz]")
        frozen(path, out, fetcher, overrides)
    line = remark(path, out, fetcher, overrides)
    assert "Not compared: texts (its files would have to be asked for one by one)" in line
    frozen(path, out, fetcher)
    for file in (tmp_path / "files" / "inputs").iterdir():
        file.unlink()
    assert "Not compared: texts (source texts: nothing at" in remark(path, out, fetcher)
