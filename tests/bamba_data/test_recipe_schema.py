"""What a recipe can say is printed in full, and a name that is not known is answered with the one that was meant."""

import json
from pathlib import Path

import pytest

from bamba_data import recipe as dataset_recipe
from bamba_data.errors import RecipeError
from bamba_data.recipe import Recipe, load
from bamba_data.recipe_schema import chosen, described, nearest, recipe_fields
from pipelines.cli import app, run
from pipelines.cli.options import RECIPES
from trainer import config as training

DATASET = Path(str(dataset_recipe.__file__)).parent / "recipe_fields.yaml"
TRAINER = Path(str(training.__file__)).parent / "recipe_fields.yaml"


@pytest.mark.parametrize(("model", "meanings"), [(Recipe, DATASET), (training.Recipe, TRAINER)])
def test_every_field_of_a_recipe_has_a_meaning_and_every_meaning_a_field(model: type, meanings: Path) -> None:
    fields = described(model, meanings)
    assert all(field.meaning and field.kind for field in fields)
    assert len({field.name for field in fields}) == len(fields)


def test_a_field_without_a_meaning_is_an_error_and_so_is_a_meaning_without_a_field(tmp_path: Path) -> None:
    path = tmp_path / "fields.yaml"
    path.write_text(DATASET.read_text().replace("unit_bytes:", "units_byte:"))
    with pytest.raises(LookupError, match="unit_bytes, units_byte"):
        described(Recipe, path)


MEANT = {
    "limits.file": "limits.files",
    "block_tokens": "shards.block_tokens",
    "shard.block_tokens": "shards",
    "corpora.0.dataset": "corpora.0.datasets",
    "badinput.max_bad_rate": "bad_input",
    "unit_byte": "unit_bytes",
    "colour": None,
}
MEANT_IN_TRAINING = {
    "row_tokens": "data.row_tokens",
    "optimiser.beta1": "optimizer",
    "log.every_step": "log.every_steps",
    "lr": "schedule.peak_lr",
    "colour": None,
}


@pytest.mark.parametrize(("said", "meant"), MEANT.items())
def test_the_field_that_was_meant_is_said(said: str, meant: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        load((RECIPES / "demo.yaml").read_text(), "demo", [f"{said}=1"])
    (line,) = [line for line in str(caught.value).splitlines() if "Extra inputs" in line]
    assert line.endswith(f"; did you mean {meant}?") if meant else "did you mean" not in line


@pytest.mark.parametrize(("said", "meant"), MEANT_IN_TRAINING.items())
def test_the_field_of_a_training_recipe_that_was_meant_is_said(said: str, meant: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        training.load_recipe("tiny-cpu", [f"{said}=1"])
    assert (f"did you mean {meant}?" in str(caught.value)) == (meant is not None)


def test_the_number_of_a_list_element_stays_as_it_was_said() -> None:
    assert nearest("corpora.3.subsett", [field.name for field in recipe_fields(Recipe)]) == "corpora.3.subset"


def test_schema_prints_one_field_a_part_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["schema", "shards.block_tokens"]) == 0
    assert capsys.readouterr().out == (
        "shards.block_tokens  (integer, at least 16, at most 16,777,216; default 262144)\n"
        "    tokens of a block (a parquet row group, read at once), at least; the document that reaches it ends it\n"
    )
    assert run(app, ["schema", "corpora.0", "--json"]) == 0
    names = {field["name"] for field in json.loads(capsys.readouterr().out)}
    assert {"corpora.N.base", "corpora.N.text.join"} <= names and "name" not in names
    assert run(app, ["model", "schema", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(recipe_fields(training.Recipe))
    assert run(app, ["schema", "shard.block_token"]) == 2
    assert "did you mean shards.block_tokens?" in capsys.readouterr().err
    assert chosen(recipe_fields(Recipe), None) == recipe_fields(Recipe)
