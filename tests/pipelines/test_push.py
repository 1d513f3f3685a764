"""A pushed version lies whole on the hub, as whoever pulls it finds; nothing else of the place does, and no secret."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bamba_data.exchange.hub_repo import HubRepo, git_blob_id
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from loader import OrderSpec, Reading, build_loader
from pipelines.cli import app, run
from tests.derive.content import dropped
from tests.pushing import TOKEN, command, environment
from tests.servers.faults import Fault, Status
from tests.servers.hub import HubServer

REPO = "acme/tiny"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "hub").mkdir()
    with HubServer(tmp_path / "hub", writer=TOKEN) as server:
        yield server


def push(hub: HubServer, data: Path, home: Path, *words: str) -> dict[str, Any]:
    done = command(hub, home, "push", str(data), f"hf://datasets/{REPO}", "--json", *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def pulled(hub: HubServer, folder: Path) -> Path:
    """The repository as a snapshot of `main` gives it."""
    _, tree = hub.repos("datasets").at(REPO, "main")
    for path, blob in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(blob.content)
    return folder


def test_a_pushed_version_is_whole_tagged_and_pushed_again_sends_nothing(
    hub: HubServer, tiny_copy: Path, tmp_path: Path
) -> None:
    (tiny_copy / "dataset=lines" / "00000-000-0123456789abcdef.parquet").write_bytes(b"of a build that was given up")
    assert run(app, ["tag", str(tiny_copy), "release", "1"]) == 0
    first = push(hub, tiny_copy, tmp_path / "home", "--private")
    assert (first["version"], first["tags"], first["files_there"]) == (1, ["v1", "release"], 0)
    assert hub.visibility[REPO] == "private"
    assert hub.repos("datasets").tags(REPO) == dict.fromkeys(["v1", "release"], first["commit"])
    assert hub.commits[-1][2] == ["README.md", "_bamba/versions/000001.json", "croissant.json"]

    copy = pulled(hub, tmp_path / "copy")
    assert open_dataset(copy).manifest.digest == open_dataset(tiny_copy).manifest.digest
    report = verify(str(copy), full=True)
    assert (report.faults, report.unlisted) == ([], 0)
    folders = {path.relative_to(copy).parts[1] for path in copy.glob("_bamba/*")}
    assert folders == {"dead_letters", "locks", "manifests", "tables", "tokenizers", "versions"}

    commits = len(hub.commits)
    again = push(hub, tiny_copy, tmp_path / "home")
    assert (again["files"], again["files_there"], again["commit"]) == (0, first["files"], first["commit"])
    assert len(hub.commits) == commits


@pytest.mark.costly
def test_a_derived_version_is_pushed_beside_the_one_that_it_came_of(
    hub: HubServer, tiny_copy: Path, tmp_path: Path
) -> None:
    first = push(hub, tiny_copy, tmp_path / "home")
    (tmp_path / "ids.txt").write_text("doc-0\ndoc-101\n")
    assert run(app, ["drop", str(tiny_copy), "--list", str(tmp_path / "ids.txt")]) == 0
    second = push(hub, tiny_copy, tmp_path / "home")
    assert (second["version"], second["files"]) == (2, 2)  # a manifest and the masks
    assert second["files_there"] > 10
    copy = pulled(hub, tmp_path / "copy")
    for version in ("1", "2"):
        assert verify(str(copy), version, full=True).faults == []
    assert set(hub.repos("datasets").tags(REPO).values()) == {first["commit"], second["commit"]}


@pytest.mark.costly
def test_a_run_goes_on_with_the_one_version_that_was_pushed(hub: HubServer, tiny_copy: Path, tmp_path: Path) -> None:
    """The version that it began with was not: its manifest and tables go along."""
    spec = OrderSpec(row_tokens=48, batch_rows=4, seed=3, holdout=0)
    loader = build_loader(str(tiny_copy), spec, Reading(cache=tmp_path / "cache", num_workers=0))
    next(loader)
    dropped(tiny_copy, {"doc-0", "doc-101"})
    push(hub, tiny_copy, tmp_path / "home")
    copy = pulled(hub, tmp_path / "copy")
    assert next(loader.with_dataset(str(copy)))["row"].tolist() == [4, 5, 6, 7]


@pytest.mark.costly
def test_a_push_that_fails_half_way_names_no_version_and_goes_on(hub: HubServer, tiny: Path, tmp_path: Path) -> None:
    hub.faults.append(Fault(r"POST /api/datasets/acme/tiny/commit/main", Status(500), skip=1, times=1))
    done = command(hub, tmp_path / "home", "push", str(tiny), f"hf://datasets/{REPO}")
    assert done.returncode == 4, done.stderr
    assert not [path for _, _, files in hub.commits for path in files if "versions" in path or path == "README.md"]
    sent = len(hub.objects)
    went_on = push(hub, tiny, tmp_path / "home")
    assert (went_on["files"], len(hub.objects)) == (0, sent)
    assert verify(str(pulled(hub, tmp_path / "copy")), full=True).faults == []


@pytest.mark.costly
def test_a_shard_that_is_damaged_here_is_not_named_there(hub: HubServer, tiny_copy: Path, tmp_path: Path) -> None:
    shard = tiny_copy / open_dataset(tiny_copy).shards["path"][1]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    done = command(hub, tmp_path / "home", "push", str(tiny_copy), f"hf://datasets/{REPO}")
    assert done.returncode == 5
    assert f"{shard.relative_to(tiny_copy)}: is not the file of the manifest" in done.stderr
    assert hub.repos("datasets").tags(REPO) == {}
    assert not list(pulled(hub, tmp_path / "copy").rglob("_bamba/versions/*"))


@pytest.mark.costly
def test_another_dataset_under_the_same_number_is_refused(
    hub: HubServer, tiny: Path, demo: Path, tmp_path: Path
) -> None:
    push(hub, tiny, tmp_path / "home")
    done = command(hub, tmp_path / "home", "push", str(demo), f"hf://datasets/{REPO}")
    assert done.returncode == 2
    assert "they are two datasets; push to another repository" in done.stderr


@pytest.mark.costly
def test_a_readme_of_somebody_else_is_left_alone(hub: HubServer, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "datasets" / REPO
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    pushed = push(hub, tiny, tmp_path / "home")
    assert pushed["readme_left_alone"] is True
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize(("token", "said"), [(None, "401"), ("hf_of_another", "403")])
def test_who_may_not_write_is_told_how_to_log_in(
    hub: HubServer, tiny: Path, tmp_path: Path, token: str | None, said: str
) -> None:
    done = command(hub, tmp_path / "home", "push", str(tiny), f"hf://datasets/{REPO}", token=token)
    assert done.returncode == 2
    assert f"the hub refuses ({said}" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert token is None or token not in done.stderr


@pytest.mark.costly
@pytest.mark.s3
def test_a_dataset_on_s3_is_pushed_as_one_on_a_disk(hub: HubServer, tiny: Path, bucket: str, tmp_path: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().put(f"{tiny}/", f"{bucket}/d", recursive=True)
    done = command(hub, tmp_path / "home", "push", f"{bucket}/d", f"hf://datasets/{REPO}")
    assert done.returncode == 0, done.stderr
    assert verify(str(pulled(hub, tmp_path / "copy")), full=True).faults == []


LOAD = """
import datasets
whole = datasets.load_dataset("acme/tiny")["train"]
rows = datasets.load_dataset("acme/tiny", "rows", revision="v1")["train"]
print(len(whole), len(rows))
"""


@pytest.mark.costly
def test_datasets_loads_it_from_the_hub_as_a_whole_and_by_source(hub: HubServer, tiny: Path, tmp_path: Path) -> None:
    push(hub, tiny, tmp_path / "home")
    env = environment(hub, tmp_path / "home", None)
    done = subprocess.run([sys.executable, "-c", LOAD], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sources = {source.name: source.account.kept for source in open_dataset(tiny).manifest.sources}
    assert done.stdout.split() == [str(sum(sources.values())), str(sources["rows"])]


@pytest.mark.parametrize(
    "url", ["datasets/acme/tiny", "hf://acme/tiny", "hf://datasets/acme", "hf://datasets/acme/tiny/data", "s3://a/b"]
)
def test_what_is_no_repository_of_datasets_is_refused(url: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["push", str(tiny), url]) == 2
    assert "expected hf://datasets/ORG/NAME" in capsys.readouterr().err


def test_repositories_are_told_by_their_kind() -> None:
    assert HubRepo.at("hf://datasets/acme/tiny/", "dataset").url == "hf://datasets/acme/tiny"
    assert HubRepo.at("hf://acme/bamba", "model").url == "hf://acme/bamba"


def test_blobs_are_named_as_git_names_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some\ncontent\n")
    git = shutil.which("git")
    assert git is not None
    named = subprocess.run([git, "hash-object", str(tmp_path / "file")], capture_output=True, text=True, check=True)
    assert git_blob_id((tmp_path / "file").read_bytes()) == named.stdout.strip()
