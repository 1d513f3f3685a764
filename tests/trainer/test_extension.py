"""Context extension: the search keeps its promises, and what it found is a model like any other."""

import json
import math
from pathlib import Path

import pytest
import torch

from bamba.pipelines.cli import app
from bamba_data import exit_codes
from bamba_data.errors import UserError
from tests.forking import typed
from tests.trainer.small import CONFIG, model, saved
from tests.trainer.vocabularies import a_tokenizer
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.config import load_recipe
from trainer.extension.extend import target_of
from trainer.extension.methods import Target, factors_of, first_slow_pair, known_methods, searched, seeds
from trainer.extension.search import Factors, search
from trainer.extension.texts import rows_of_texts
from trainer.gguf import pretokenizers
from trainer.hf.export import max_position_of
from trainer.model.config import ModelConfig
from trainer.model.rotary import frequencies

BAMBA_9B = load_recipe("bamba-9b-phase1").model
FOUR_TIMES = Target(4096, 16384)
GOAL = [1.0] * 23 + [1.1, 1.2, 1.5, 2.0, 2.2, 2.8, 3.0, 3.9, 4.0]


def distance(factors: Factors) -> float:
    return sum(math.log(one / goal) ** 2 for one, goal in zip(factors, GOAL, strict=True))


# ---- the search


def test_nine_of_32_frequencies_of_bamba_9b_are_slower_than_its_texts() -> None:
    assert (first_slow_pair(BAMBA_9B, 4096), BAMBA_9B.rotary_width // 2) == (23, 32)


def test_it_finds_what_it_is_led_to_and_nothing_that_falls() -> None:
    asked: list[Factors] = []

    def objective(factors: Factors) -> float:
        asked.append(factors)
        return distance(factors)

    begin = seeds(BAMBA_9B, FOUR_TIMES)
    found = search(objective, begin, 23, 5.0, 300, seed=1)
    assert len(asked) == len(found.losses) == len(set(asked)) == 300
    assert found.loss == min(map(distance, asked)) < 0.02 < min(map(distance, begin)) / 100
    assert list(found.losses) == sorted(found.losses, reverse=True)
    fixed = {one[:23] for one in asked[: len(begin)]}
    for factors in asked:
        assert list(factors) == sorted(factors) and factors[-1] <= 5.0 and factors[:23] in fixed


def test_the_same_seed_finds_the_same_and_another_one_something_else() -> None:
    begin = seeds(BAMBA_9B, FOUR_TIMES)
    first, again, other = (search(distance, begin, 23, 5.0, 60, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_search_that_has_seen_its_seeds_only_gives_the_best_of_them() -> None:
    begin = seeds(BAMBA_9B, FOUR_TIMES)
    found = search(distance, begin, 23, 5.0, len(begin), seed=1)
    assert found.loss == pytest.approx(min(map(distance, begin)), abs=1e-3)


def test_a_loss_that_is_no_number_is_never_the_best_and_what_cannot_change_ends_at_once() -> None:
    found = search(lambda factors: math.nan if factors[0] > 1 else 3.0, [(2.0, 2.0), (1.0, 1.0)], 2, 5.0, 50, 1)
    assert (found.factors, found.losses) == ((1.0, 1.0), (math.inf, 3.0))


# ---- the methods


def test_the_factors_of_a_method_make_its_frequencies() -> None:
    for name, config in known_methods(BAMBA_9B, FOUR_TIMES).items():
        again = searched(BAMBA_9B, FOUR_TIMES, factors_of(config))
        assert torch.allclose(frequencies(again), frequencies(config), rtol=1e-6), name
        assert list(factors_of(config)) == sorted(factors_of(config)), name


def test_a_search_states_longropes_attention_factor() -> None:
    scale = searched(BAMBA_9B, FOUR_TIMES, (1.0,) * 32).rotary_scale
    assert scale is not None and scale.cos_and_sin_by == pytest.approx(math.sqrt(1 + math.log(4) / math.log(4096)))


def test_what_cannot_be_extended_is_refused_with_the_reason(tmp_path: Path) -> None:
    own = saved(tmp_path / "own", model(), row_tokens=64)
    with pytest.raises(UserError, match="--to 64: the model was trained on texts of 64 tokens"):
        target_of(own, 64, None)
    assert target_of(own, 64, 32) == Target(32, 64)
    with pytest.raises(UserError, match="every frequency turns all round within 100,000 tokens"):
        target_of(own, 200_000, 100_000)
    plain = ModelConfig.model_validate({**CONFIG.model_dump(), "attention_layers": []})
    with pytest.raises(UserError, match="has no attention"):
        target_of(saved(tmp_path / "mamba", model(config=plain)), 1024, None)
    longer = ModelConfig.model_validate({**CONFIG.model_dump(), "rotary_scale": {"kind": "linear", "factor": 2}})
    with pytest.raises(UserError, match="changed for longer texts already"):
        target_of(saved(tmp_path / "longer", model(config=longer)), 1024, None)


# ---- texts


def test_of_many_texts_each_gives_a_row_before_one_gives_two(tmp_path: Path) -> None:
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values()))).tokenizer
    texts = ["one two three four five six seven " * 30, "short", "eight nine ten eleven twelve " * 30]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    said: list[str] = []
    rows = rows_of_texts([file], tokenizer, 100, 3, said.append)
    assert said == ["1 of 3 texts are shorter than 100 tokens: left out"]
    begins = [tokenizer.encode(text).ids for text in texts]
    assert [row["input_ids"][0].tolist() for row in rows[:2]] == [begins[0][:100], begins[2][:100]]
    assert rows[2]["input_ids"][0].tolist() == begins[0][100:200] and rows[2]["labels"][0, 0] == begins[0][101]
    with pytest.raises(UserError, match="no text has more than 99,999 tokens"):
        rows_of_texts([file], tokenizer, 99_999, 3, said.append)
    file.write_text('{"words": 1}\n')
    with pytest.raises(UserError, match=r"texts\.jsonl, line 1: no JSON object with a text"):
        rows_of_texts([file], tokenizer, 100, 3, said.append)


# ---- the command


@pytest.mark.slow
def test_the_command_makes_a_run_that_every_other_command_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ModelConfig.model_validate({**CONFIG.model_dump(), "vocab_size": 512})
    saved(tmp_path / "run", model(config=config), row_tokens=32)
    (tmp_path / "tokenizer.json").write_bytes(a_tokenizer(next(iter(pretokenizers.NAMES.values()))).data)
    (tmp_path / "long.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    words = f"--text {tmp_path}/long.txt --tokenizer {tmp_path}/tokenizer.json --rows 2".split()
    asked = ["model", "extend", f"{tmp_path}/run", "--to", "128", *words, "--evaluations", "20"]
    assert exit_codes.run(app, [*asked, "--out", f"{tmp_path}/longer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["method"] for one in found["methods"]] == ["unscaled", "PI", "NTK", "YaRN", "searched"]
    assert (found["own"], found["to"], found["evaluations"]) == (32, 128, 20)
    assert len(found["curve"]) < 20, "some are for the other attention factor"
    assert found["methods"][-1]["target"] == pytest.approx(found["curve"][-1], rel=1e-6)

    made = SavedCheckpoint(f"{tmp_path}/longer")
    assert made.config.rotary_factors == found["model"]["rotary_factors"]
    assert max_position_of(made) == 128
    for name, value in model(config=config).named_parameters():
        assert torch.equal(made.tensor(f"model.{name}"), value), "the weights stay as they are"

    evaluate = ["model", "evaluate", f"{tmp_path}/longer", *words[:4], "--row-tokens", "128", "--json"]
    assert exit_codes.run(app, evaluate) == 0
    assert math.isfinite(next(iter(json.loads(capsys.readouterr().out)["losses"].values()))["loss"])
    export = ["model", "export", f"{tmp_path}/longer", "--out", f"{tmp_path}/hf", "--tokenizer", words[3]]
    assert exit_codes.run(app, export) == 0
    stated = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert stated["max_position_embeddings"] == 128
    assert stated["rope_parameters"]["long_factor"] == found["model"]["rotary_factors"]
    assert exit_codes.run(app, [*asked, "--out", f"{tmp_path}/longer"]) == 2
    assert "is in use" in capsys.readouterr().err


@pytest.mark.slow
def test_held_out_documents_of_the_runs_own_data_are_packed_into_longer_rows(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("schedule.steps=1", "data.row_tokens=24", "data.batch_rows=4")
    rest = [word for change in changes for word in ("--set", change)]
    done = typed("trainer", "--recipe", "tiny-cpu", "--data", dataset, "--out", tmp_path / "run", *rest)
    assert done.returncode == 0, done.stderr
    asked = ["model", "extend", f"{tmp_path}/run", "--data", str(dataset), "--json", "--evaluations", "16"]
    assert exit_codes.run(app, [*asked, "--to", "96", "--rows", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["own"], found["to"], found["rows"]) == (24, 96, 2)
    assert exit_codes.run(app, [*asked, "--to", "2100", "--own", "2000"]) == 2
    assert "none goes beyond 2,000 tokens: give longer texts (--text)" in capsys.readouterr().err
