"""The command line says which recipes and fields there are, and prints a recipe as it resolves."""

from pathlib import Path

import pytest
import yaml

from bamba_data import exit_codes
from tests.forking import typed
from trainer import config_help
from trainer.__main__ import app
from trainer.config import Recipe, load_recipe


def test_help_names_every_recipe_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_codes.run(app, ["--help"]) == 0
    said = capsys.readouterr().out
    words = said.replace("\n", " ")
    assert all(name in words for name in config_help.shipped())
    assert all(name.rpartition(".")[2] in words for name, _ in config_help.fields())


@pytest.mark.parametrize("name", config_help.shipped())
def test_what_is_printed_is_the_same_recipe_when_it_is_given_back(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_codes.run(app, ["--recipe", name, "--print", "--set", "schedule.steps=77"]) == 0
    said = capsys.readouterr().out
    assert yaml.safe_load(said)["schedule"]["steps"] == 77
    (tmp_path / "again.yaml").write_text(said, encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")) == load_recipe(name, ["schedule.steps=77"])


def test_every_field_that_is_listed_can_be_set() -> None:
    plain = load_recipe("tiny-cpu")
    said = plain.model_dump(mode="json")
    for name, _ in config_help.fields():
        place, value = said, plain
        for part in name.split("."):
            value = getattr(value, part)
        *parts, last = name.split(".")
        for part in parts:
            place = place[part]
        assert place.setdefault(last, value) is not ...
    assert Recipe.model_validate(said) == plain


@pytest.mark.parametrize("out", [[], ["--out", ""]])
def test_without_a_folder_a_run_is_refused(out: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_codes.run(app, ["--recipe", "tiny-cpu", *out]) == 2
    assert capsys.readouterr().err.startswith("error: --out is missing or empty")


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("trainer.evaluate", ["RUN", "--text", "TEXT", "--tokenizer", "/nowhere/t.json"], "/nowhere/t.json"),
        ("trainer.generate", ["RUN", "--prompt", "x", "--tokenizer", "BAD"], "no tokenizer.json"),
        ("trainer.generate", ["RUN", "--prompt", "x"], "names no dataset to take the tokenizer from"),
        ("trainer.evaluate", ["RUN", "--text", "LATIN", "--tokenizer", "BAD"], "not UTF-8 text"),
        ("trainer.export_hf", ["RUN", "FILE"], "give --tokenizer FILE"),
        ("trainer.export_hf", ["RUN", "FILE", "--tokenizer", "none"], "exists"),
    ],
)
def test_a_mistake_of_a_user_is_one_line(tmp_path: Path, module: str, arguments: list[str], said: str) -> None:
    from tests.trainer.small import model, saved

    saved(tmp_path / "RUN", model())
    (tmp_path / "TEXT").write_text("text")
    (tmp_path / "LATIN").write_bytes("né".encode("latin-1"))
    (tmp_path / "BAD").write_text("{}")
    (tmp_path / "FILE").write_text("")
    done = typed(module, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
