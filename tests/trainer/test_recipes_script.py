"""The script that runs every shipped recipe on a GPU runs here on tiny models, and fails where a case fails."""

import subprocess
import sys

import pytest

from benchmarks import recipes
from trainer.config import RECIPES, load_recipe

pytestmark = pytest.mark.slow


def script(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.recipes", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_every_shipped_recipe_has_cases_on_one_rank_and_on_two_or_as_many_as_share_its_rows() -> None:
    names = {file.stem: load_recipe(file.stem).compute.context_ranks for file in RECIPES.glob("*.yaml")}
    assert {(case.recipe, case.ranks) for case in recipes.cases()} == {
        (name, max(ranks, shared)) for name, shared in names.items() for ranks in (1, 2)
    }
    assert len({case.name for case in recipes.cases()}) == len(recipes.cases())


def test_layers_are_left_out_until_a_recipe_fits_and_micro_batches_stay_several() -> None:
    case = next(case for case in recipes.cases() if case.name == f"{recipes.LARGEST} / low / 1 rank")
    recipe, layers = recipes.shaped(case, 80 * 2**30, tiny=False)
    assert 2 < recipe.model.layers < layers == 32
    assert recipe.data.batch_rows >= 2 * recipe.compute.micro_rows
    assert recipes.shaped(case, 1000 * 2**30, tiny=False)[0].model.layers == 32


@pytest.mark.costly
def test_half_the_memory_whole_on_each_of_two_ranks_passes_all_compiled() -> None:
    done = script("--dry", "--only", f"{recipes.LARGEST} / low, whole on each / 2 ranks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("passed") and "1 passed, 0 failed" in done.stdout


def test_a_recipe_whose_rows_two_ranks_share_passes_on_two() -> None:
    done = script("--dry", "--only", "tiny-cpu-long / *")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny-cpu-long / as it ships / 2 ranks" in done.stdout and "1 passed, 0 failed" in done.stdout


def test_a_case_that_dies_has_failed_and_says_of_what() -> None:
    found = recipes.run(recipes.Case("tiny-cpu", "wrong", 1, ("optimizer.memory=low", "compute.dtype=float32")), True)
    assert not found["passed"]
    assert any("low keeps bfloat16 weights only" in line for line in found["stderr"])


def test_a_pattern_that_fits_no_case_is_refused() -> None:
    assert script("--dry", "--only", "nothing of this name").returncode == 2
