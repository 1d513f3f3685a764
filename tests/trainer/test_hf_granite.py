"""The layout granite: the same model as a dense GraniteMoeHybridForCausalLM, and back, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GraniteMoeHybridForCausalLM

from bamba_data.errors import UserError
from pipelines.cli import app, run
from tests.trainer.proportions import CONFIG, sharp_model
from tests.trainer.small import packed, saved
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf.export import export
from trainer.hf.form import GRANITE
from trainer.hf.granite_config import config_json, config_of
from trainer.hf.importing import imported
from trainer.hf.layouts import ExportOptions, layout_for
from trainer.model.config import ModelConfig

pytestmark = pytest.mark.slow

OURS = config_json(CONFIG, 256, "float32", None, None)


def bits(found: SavedCheckpoint) -> dict[str, str]:
    return {key: entry["pieces"][0][-1] for key, entry in found.index.items()}


def of(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({**CONFIG.model_dump(), **changes})


@pytest.mark.parametrize(
    "config",
    [CONFIG, of(rotary_fraction=0.25, rotary_base=5e5), of(rotary_fraction=1.0), of(attention_layers="all")],
    ids=["half", "quarter", "whole", "attention alone"],
)
def test_the_layout_granite_computes_what_we_do_in_transformers_and_comes_back_to_the_bit(
    tmp_path: Path, config: ModelConfig
) -> None:
    ours = sharp_model(config)
    first = saved(tmp_path / "run", ours)
    export(first, tmp_path / "hf", torch.float32, None, GRANITE)
    theirs, report = GraniteMoeHybridForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    ids, documents, positions, _ = packed([130])
    with torch.no_grad():
        mine, wanted = ours.logits(ids, documents, positions), theirs(ids).logits
        otherwise = ours.logits(ids, documents, positions // 2)
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (mine - otherwise).abs().max() > 0.1 * wanted.abs().max(), "so flat that a wrong rotation would not show"
    assert theirs.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 133)
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    assert back.config.attention_indices == config.attention_indices
    assert back.config.model_copy(update={"attention_layers": config.attention_layers}) == config
    assert bits(back) == bits(first)


def test_a_folder_that_transformers_saves_of_it_comes_back_as_well(tmp_path: Path) -> None:
    first = saved(tmp_path / "run", sharp_model())
    export(first, tmp_path / "hf", torch.float32, None, GRANITE)
    GraniteMoeHybridForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).save_pretrained(tmp_path / "hf-5")
    imported(tmp_path / "hf-5", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    assert back.config == CONFIG and bits(back) == bits(first)


SHORT = {**OURS["rope_parameters"], "short_factor": [2.0] * 3, "long_factor": [2.0] * 3}
MIXED = {**SHORT, "short_factor": [1e30] + [2.0] * 31, "long_factor": [1e30] + [2.0] * 31}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_local_experts": 8}, "num_local_experts is 8, this model has 0"),
    ({"num_local_experts": None}, "num_local_experts is None"),
    ({"position_embedding_type": "nope"}, "position_embedding_type is 'nope', this model has 'rope'"),
    ({"embedding_multiplier": 12}, "embedding_multiplier is 12"),
    ({"attention_multiplier": 0.0078125}, "attention_multiplier is 0.0078125, this model has 0.125"),
    ({"mamba_n_groups": 3}, "mamba_groups: 3 do not divide"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    ({"layer_types": ["mamba"]}, "layer_types names 1 layers, num_hidden_layers is 4"),
    ({"layer_types": ["mamba", "moe", "mamba", "mamba"]}, "layer_types: moe is not known"),
    ({"rope_theta": 5e5}, "the base of the rotary embedding is stated twice"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "longer texts is stated twice, and differs"),
    (
        {"rope_parameters": {**OURS["rope_parameters"], "long_factor": [2.0] * 32}},
        "short_factor and long_factor differ",
    ),
    ({"rope_parameters": {"rope_type": "default"}}, "longer texts is stated twice"),
    ({**dict.fromkeys(("rope_parameters", "rope_scaling"), SHORT)}, "3 divisors of which the first 3 are below 1e"),
    ({**dict.fromkeys(("rope_parameters", "rope_scaling"), MIXED)}, "those that turn come first"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": None}, "vLLM heeds it and transformers does"),
    ({"router_bias": True}, "router_bias: not known here"),
    ({"quantization_config": {}}, "quantization_config: its weights are codes"),
]


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_what_this_model_cannot_be_is_refused_by_the_name_of_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as refused:
        config_of({**OURS, **fields}, "config.json")
    assert str(refused.value).startswith("config.json: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["num_local_experts", "position_embedding_type", "attention_multiplier"])
def test_a_field_whose_default_there_is_not_ours_is_not_taken_for_ours_where_it_is_missing(field: str) -> None:
    with pytest.raises(UserError, match=field):
        config_of({name: value for name, value in OURS.items() if name != field}, "config.json")


def test_a_model_that_the_layout_cannot_say_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    odd = of(hidden_size=60, attention_heads=4, mamba_heads=15, mamba_head_dim=64, rotary_fraction=0.55)
    assert odd.head_dim == 15
    with pytest.raises(UserError, match="a head of this model has 15 features: --layout bamba can say it"):
        export(saved(tmp_path / "run", sharp_model(odd)), tmp_path / "hf", torch.float32, None, GRANITE)
    assert not (tmp_path / "hf").exists()


def test_a_layout_or_a_value_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"--layout ggml: there is none of this name: bamba, granite"):
        layout_for("ggml", ExportOptions())
    with pytest.raises(UserError, match=r"--dtype float16: bfloat16 or float32"):
        layout_for("granite", ExportOptions(dtype="float16"))


def test_the_command_writes_what_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "run", sharp_model())
    words = ["model", "export", str(tmp_path / "run"), "--tokenizer", "none", "--layout", "granite"]
    assert run(app, [*words, "--out", str(tmp_path / "plain"), "--dtype", "float32"]) == 0
    assert run(app, [*words, "--out", str(tmp_path / "fp8"), "--quantize", "fp8"]) == 0
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "fp8")]
    assert [config["architectures"] for config in configs] == [["GraniteMoeHybridForCausalLM"]] * 2
    assert [config["dtype"] for config in configs] == ["float32", "bfloat16"]
    assert [config.get("quantization_config", {}).get("format") for config in configs] == [None, "float-quantized"]
    capsys.readouterr()
    assert run(app, [*words, "--out", str(tmp_path / "both"), "--quantize", "fp8", "--dtype", "float32"]) == 2
    said = capsys.readouterr().err
    assert "--quantize fp8 and --dtype float32 are two things" in said and said.count("\n") == 1
    assert not (tmp_path / "both").exists()
