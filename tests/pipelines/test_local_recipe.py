"""The recipe for a folder of one's own: it starts where a person stands."""

import json
from pathlib import Path

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.storage.fetch import Fetcher
from pipelines.cli import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with JSON lines, also deeper, some without an id; the current one is above it."""
    folder = tmp_path / "texts"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": f"a{n}", "text": f"text {n}"}) + "\n" for n in range(9)))
    (folder / "deeper" / "b.jsonl").write_text(json.dumps({"text": "without an id"}) + "\n")
    monkeypatch.chdir(tmp_path)
    return folder


def documents(out: Path, overrides: list[str]) -> int:
    recipe, folder = load_recipe("local", overrides)
    ready = prepare(recipe, folder, str(out), Fetcher())
    assert run_here(ready, Fetcher()) == []
    return finish(ready)[1].totals.kept


@pytest.mark.usefixtures("certificate")
def test_the_current_folder_is_built(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(texts)
    assert documents(tmp_path / "out", []) == 10
    assert open_dataset(str(tmp_path / "out")).manifest.sources[0].name == "texts"


@pytest.mark.usefixtures("certificate", "texts")
def test_another_folder_starts_at_the_current_one_too(tmp_path: Path) -> None:
    assert documents(tmp_path / "out", ["corpora.0.base=texts"]) == 10


def test_what_is_said_of_a_recipe_that_ships_starts_where_a_person_stands(texts: Path) -> None:
    (corpus,) = load_recipe("fineweb-edu", ["corpora.0.base=texts"])[0].corpora
    assert corpus.base == str(texts)
    for base in ("s3://bucket/x", "/there/x"):
        (corpus,) = load_recipe("fineweb-edu", [f"corpora.0.base={base}"])[0].corpora
        assert corpus.base == base
    text = "name: m\ntokenizer: {url: t.json}\ncorpora: [{corpus: fineweb-edu, base: x}]\n"
    (mine := texts / "mine.yaml").write_text(text)
    recipe, folder = load_recipe(str(mine), ["corpora.0.base=y"])
    assert (recipe.corpora[0].base, folder) == ("y", texts), "a recipe of one's own is read beside itself"
