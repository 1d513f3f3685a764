"""A checkpoint on a hub: a revision for each, the newest on main, and what is there is never replaced unasked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import BambaForCausalLM

from bamba_data.canonical_json import digest
from bamba_data.storage.store import LocalStore
from tests.pushing import TOKEN, command
from tests.servers.hub import HubServer
from tests.trainer.small import model
from trainer.checkpoint.commits import folder_name
from trainer.checkpoint.reader import SavedCheckpoint, write
from trainer.hf.pushing import revision_of

pytestmark = [pytest.mark.costly, pytest.mark.process]

REPO = "acme/small"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "hub").mkdir()
    with HubServer(tmp_path / "hub", writer=TOKEN) as server:
        yield server


def run_at(folder: Path, step: int, seed: int) -> SavedCheckpoint:
    """A run whose newest checkpoint is of this step."""
    ours = model(seed)
    tensors = ((f"model.{name}", value.detach()) for name, value in ours.named_parameters())
    about = {"step": step, "tokens": {"a": 100 * step, "b": step}}
    recipe = {"model": ours.config.model_dump(mode="json"), "data": {"row_tokens": 256}}
    write(LocalStore(folder / "checkpoints"), folder_name(step, "0"), tensors, {**about, "recipe": recipe})
    return SavedCheckpoint(str(folder))


def push(hub: HubServer, run: Path, home: Path, *words: str) -> dict[str, Any]:
    wanted = ["model", "push", str(run), f"hf://{REPO}", "--tokenizer", "none", "--dtype", "float32", "--json"]
    done = command(hub, home, *wanted, *words)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def pulled(hub: HubServer, revision: str, folder: Path) -> Path:
    _, tree = hub.repos("models").at(REPO, revision)
    folder.mkdir()
    for path, blob in tree.items():
        (folder / path).write_bytes(blob.content)
    return folder


def test_every_checkpoint_is_a_revision_and_main_is_the_newest(hub: HubServer, tmp_path: Path) -> None:
    first = run_at(tmp_path / "run", 3, seed=1)
    assert revision_of(first) == "step3-tokens303"
    pushed = push(hub, tmp_path / "run", tmp_path / "home", "--private")
    assert (pushed["revision"], pushed["was_there"]) == ("step3-tokens303", False)
    assert hub.visibility[REPO] == "private"
    (tmp_path / "hub" / "models" / REPO / "model-00002-of-00002.safetensors").write_bytes(b"of an earlier push")
    (tmp_path / "hub" / "models" / REPO / "notes.md").write_text("of the owner")
    hub.push(REPO, "models")

    second = run_at(tmp_path / "run", 9, seed=2)
    newest = push(hub, tmp_path / "run", tmp_path / "home")
    assert hub.repos("models").tags(REPO) == {
        "step3-tokens303": pushed["commit"],
        "step9-tokens909": newest["commit"],
    }
    folder = pulled(hub, "main", tmp_path / "main")
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["model-00001-of-00001.safetensors"]
    assert (folder / "notes.md").read_text() == "of the owner"
    assert digest(second.commit) in (folder / "README.md").read_text()
    before = pulled(hub, "step3-tokens303", tmp_path / "before")
    assert digest(first.commit) in (before / "README.md").read_text()
    for opened in (folder, before):
        BambaForCausalLM.from_pretrained(opened)
    assert (folder / "model-00001-of-00001.safetensors").read_bytes() != (
        before / "model-00001-of-00001.safetensors"
    ).read_bytes()


def test_the_same_again_sends_nothing_and_another_layout_is_refused(hub: HubServer, tmp_path: Path) -> None:
    run_at(tmp_path / "run", 3, seed=1)
    first = push(hub, tmp_path / "run", tmp_path / "home")
    commits = len(hub.commits)
    again = push(hub, tmp_path / "run", tmp_path / "home")
    assert (again["commit"], again["was_there"], len(hub.commits)) == (first["commit"], True, commits)
    words = ["model", "push", str(tmp_path / "run"), f"hf://{REPO}", "--tokenizer", "none", "--dtype", "bfloat16"]
    done = command(hub, tmp_path / "home", *words)
    assert done.returncode == 2
    assert "has a revision step3-tokens303 of other weights or another layout" in done.stderr


def test_a_card_of_somebody_else_and_a_place_for_datasets_are_left_alone(hub: HubServer, tmp_path: Path) -> None:
    run_at(tmp_path / "run", 3, seed=1)
    folder = tmp_path / "hub" / "models" / REPO
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    assert push(hub, tmp_path / "run", tmp_path / "home")["readme_left_alone"] is True
    assert (folder / "README.md").read_text() == "mine"
    done = command(hub, tmp_path / "home", "model", "push", str(tmp_path / "run"), "hf://datasets/acme/small")
    assert done.returncode == 2
    assert "expected hf://ORG/NAME" in done.stderr
