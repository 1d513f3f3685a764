"""The recipes of Bamba's second version are what its authors published: mixes, tokens, learning rates.

The tables are those of the post "Bamba-9B-v2" as it stands in the authors' repository (blog/bamba31T.md), in percent.
"""

import pytest

from pipelines.cli.options import load_recipe as load_dataset_recipe
from trainer.config import load_recipe

TABLE_1 = {
    **{"olmo-dclm": 90.5, "olmo-arxiv": 1.14, "olmo-pes2o": 2.36, "olmo-starcoder": 4.5},
    **{"olmo-algebraic-stack": 0.49, "olmo-open-web-math": 0.51, "olmo-wiki": 0.5},
}
TABLE_2 = {
    **{"nemotron-high-actual": 70.5, "nemotron-high-distill": 2.0, "nemotron-high-diverse_qa_pairs": 5.0},
    **{"nemotron-high-extract_knowledge": 2.0, "nemotron-high-knowledge_list": 0.25, "nemotron-high-wrap_medium": 0.25},
    **{"cosmopedia-v2": 2.0, "fineweb-edu-dedup": 3.0, "finemath-3plus": 3.0, "infiwebmath-3plus": 3.75},
    **{"dolmino-pes2o": 2.5, "dolmino-wiki": 0.5, "olmo-algebraic-stack": 0.25, "olmo-starcoder": 5.0},
}
TABLE_3 = {
    **{"nemotron-high-distill": 7.0, "nemotron-high-diverse_qa_pairs": 7.0, "nemotron-high-extract_knowledge": 7.0},
    **{"nemotron-high-knowledge_list": 2.0, "nemotron-high-wrap_medium": 2.0, "dolmino-dclm": 20.0},
    **{"dolmino-flan": 17.0, "dolmino-pes2o": 5.9, "dolmino-wiki": 3.7, "dolmino-stackexchange": 1.3},
    **{"cosmopedia-v2": 17.5, "finemath-4plus": 9.6},
}
PHASES = [
    ("bamba-9b-v2-2.5t", "olmo-mix-1124", TABLE_1, 500e9, (2e-5, 2e-5)),
    ("bamba-9b-v2-3t-constant", "bamba-v2-3t", TABLE_2, 500e9, (2e-5, 2e-5)),
    ("bamba-9b-v2-3t-cosine", "bamba-v2-3t", TABLE_2, 500e9, (2e-5, 2e-6)),
    ("bamba-9b-v2-anneal", "bamba-v2-anneal", TABLE_3, 100e9, (2e-5, 0.0)),  # these rates are ours
]


@pytest.mark.parametrize(("name", "dataset", "table", "tokens", "rates"), PHASES, ids=[phase[0] for phase in PHASES])
def test_a_phase_reads_what_the_post_says_for_as_many_tokens(
    name: str, dataset: str, table: dict[str, float], tokens: float, rates: tuple[float, float]
) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.data.weights == {source: pytest.approx(100 * share) for source, share in table.items()}
    step_tokens = recipe.data.row_tokens * recipe.data.batch_rows
    assert 0 <= tokens - recipe.schedule.steps * step_tokens < step_tokens
    assert (recipe.schedule.peak_lr, recipe.schedule.end_lr) == rates


@pytest.mark.parametrize(("name", "dataset"), [phase[:2] for phase in PHASES])
def test_the_dataset_of_a_phase_has_its_sources_and_no_other(name: str, dataset: str) -> None:
    recipe, _ = load_dataset_recipe(dataset, [])
    assert {source.name for source in recipe.sources()} == set(load_recipe(name).data.weights or {})


@pytest.mark.parametrize("table", [TABLE_1, TABLE_2, TABLE_3])
def test_the_published_shares_are_the_whole(table: dict[str, float]) -> None:
    assert sum(table.values()) == pytest.approx(100)


def test_all_phases_train_the_model_of_the_first_version() -> None:
    assert all(load_recipe(phase[0]).model == load_recipe("bamba-9b-phase1").model for phase in PHASES)
