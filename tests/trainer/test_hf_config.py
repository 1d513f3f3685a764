"""A config.json is understood as transformers understands it, or refused by the name of what is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BambaConfig, BambaForCausalLM

from bamba_data.errors import UserError
from tests.trainer.small import CONFIG, packed
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf.bamba_config import config_json, config_of
from trainer.hf.importing import imported
from trainer.model.config import ModelConfig

pytestmark = pytest.mark.slow

OURS = config_json(CONFIG, 256, "float32", None, None)
ROTARY = ("rope_parameters", "rope_theta", "partial_rotary_factor", "attn_rotary_emb")
PLAIN = {field: value for field, value in OURS.items() if field not in ROTARY}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    **{"rope_type": "longrope", "original_max_position_embeddings": 32},
    **{"short_factor": [1.0, 1.5, 2.0, 4.0], "long_factor": [1.0, 1.5, 2.0, 4.0]},
}

#: What others write, and what it means: (base, share of a head that is rotated).
MEANT: list[tuple[dict[str, Any], tuple[float, float]]] = [
    ({}, (10_000.0, 0.5)),  # the published checkpoints say nothing but attn_rotary_emb
    ({"attn_rotary_emb": 8}, (10_000.0, 0.5)),
    ({"rope_theta": 5e5}, (5e5, 0.5)),  # transformers 4
    ({"rope_theta": 5e5, "rope_scaling": None, "partial_rotary_factor": 0.5}, (5e5, 0.5)),
    ({"rope_scaling": {"rope_type": "default", "rope_theta": 2e5}}, (2e5, 0.5)),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, (5e5, 0.5)),
    ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}}, (1e4, 1.0)),
    ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.25}}, (5e5, 0.25)),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, (1e4, 0.5)),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, (1e4, 0.5)),  # of 256 tokens
    ({"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0}}, (1e4, 0.5)),
    ({"rope_parameters": {**YARN, "partial_rotary_factor": 1.0, "beta_slow": 0.25}}, (1e4, 1.0)),
    ({"rope_parameters": LONGROPE}, (1e4, 0.5)),  # the factor is 256 / 32
    ({"rope_scaling": {**LONGROPE, "factor": 4.0, "attention_factor": 1.2}}, (1e4, 0.5)),
    ({"time_step_limit": [0.0, {"__float__": "Infinity"}]}, (1e4, 0.5)),
    ({"time_step_limit": [0.0, float("inf")]}, (1e4, 0.5)),
    ({"time_step_limit": [0.001, 0.1]}, (1e4, 0.5)),
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic': its frequencies change with the length"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "'llama3', known are default, linear, yarn, longrope"),
    ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing, linear needs it"),
    ({"rope_scaling": {"rope_type": "linear", "factor": "x"}}, "rope_scaling: a value is not a number"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "alpha": 1}}, r"rope_scaling\.alpha: not known here"),
    ({"rope_scaling": {"rope_type": "linear", "type": "yarn"}}, "rope_type is 'linear' and type 'yarn'"),
    ({"rope_parameters": {**LONGROPE, "long_factor": [9.0] * 4}}, "short_factor and long_factor differ"),
    ({"rope_parameters": {**LONGROPE, "long_factor": [2.0], "short_factor": [2.0]}}, "1 of them, and 4 pairs"),
    ({"rope_parameters": {**LONGROPE, "short_mscale": 1.0}}, "short_mscale is 1.0, which vLLM heeds"),
    ({"rope_parameters": LONGROPE, "rope_scaling": YARN}, "longer texts is stated twice, and differs"),
    ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": YARN}, "longer texts is stated twice"),
    ({"rope_parameters": {"rope_theta": 1e4, "factor": 4.0}}, r"rope_parameters\.factor: not known"),
    (
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}},
        "stated twice, and differs: rope_parameters.rope_theta 10000, rope_theta 500000",
    ),
    ({"partial_rotary_factor": 1.0}, "say it in rope_parameters.partial_rotary_factor"),
    ({"attn_rotary_emb": 16}, "by attn_rotary_emb 16 features of a head are rotated, transformers 5 would rotate 8"),
    ({"attn_rotary_emb": 16, "rope_parameters": {"partial_rotary_factor": 0.5}}, "stated twice"),
    ({"time_step_limit": [0.2, 0.1]}, r"mamba_dt_max: 0\.1 is below mamba_dt_min 0\.2"),
    ({"time_step_limit": 0.1}, r"time_step_limit is 0\.1, not two numbers"),
    ({"mamba_n_groups": 3}, "mamba_groups: 3 do not divide"),
    ({"mamba_conv_bias": False}, "mamba_conv_bias is False"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    ({"model_type": "mamba2"}, "model_type is 'mamba2'"),
    ({"num_experts": 4}, "num_experts is 4"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config: its weights are codes"),
    ({"sliding_window": 128, "logit_scale": 2.0}, "logit_scale, sliding_window: not known here"),
    ({"mamba_d_head": 32}, "mamba_n_heads 8 of mamba_d_head 32 are not mamba_expand 2 times hidden_size 64"),
    ({"attn_layer_indices": [9]}, "attention_layers"),
    ({"hidden_size": "large"}, "hidden_size is 'large', no whole number above 0"),
    ({"rope_parameters": [1]}, "rope_parameters is no object"),
]


@pytest.mark.parametrize(("fields", "meant"), MEANT, ids=lambda value: json.dumps(value)[:60])
def test_each_spelling_of_the_rotary_embedding_means_what_transformers_computes(
    tmp_path: Path, fields: dict[str, Any], meant: tuple[float, float]
) -> None:
    written = {**PLAIN, **fields}
    torch.manual_seed(1)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(written))
    theirs = BambaForCausalLM(BambaConfig.from_pretrained(tmp_path / "hf"))
    with torch.no_grad():  # so sharp that attention depends on positions
        for layer in theirs.model.layers:
            if hasattr(layer, "self_attn"):
                layer.self_attn.q_proj.weight.mul_(40)
                layer.self_attn.k_proj.weight.mul_(40)
    theirs.eval().save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(written))
    config = config_of(written, "config.json")
    assert (config.rotary_base, config.rotary_fraction) == meant
    imported(tmp_path / "hf", str(tmp_path / "back"))
    ids, documents, positions, _ = packed([90])
    with torch.no_grad():
        ours = SavedCheckpoint(str(tmp_path / "back")).model(torch.device("cpu"), torch.float32)
        mine = ours.logits(ids, documents, positions)
        wanted = theirs(ids).logits
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize(("fields", "named"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_what_this_model_cannot_be_is_refused_by_the_name_of_the_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as refused:
        config_of({**PLAIN, **fields}, "config.json")
    assert str(refused.value).startswith("config.json: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_a_size_that_is_missing_is_not_guessed(field: str) -> None:
    with pytest.raises(UserError, match=f"{field}: missing"):
        config_of({name: value for name, value in OURS.items() if name != field}, "config.json")


@pytest.mark.parametrize("value", [None, [], "bamba", 3])
def test_what_is_no_object_is_no_config(value: Any) -> None:
    with pytest.raises(UserError, match="no JSON object"):
        config_of(value, "config.json")


@pytest.mark.parametrize("fraction", [0.25, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("base", [1e4, 5e5])
def test_what_an_export_says_is_read_back_as_it_was(fraction: float, base: float) -> None:
    shape = {**CONFIG.model_dump(), "hidden_size": 160, "attention_heads": 4, "mamba_heads": 10}
    config = ModelConfig(**{**shape, "rotary_fraction": fraction, "rotary_base": base})
    assert config_of(json.loads(json.dumps(config_json(config, 256, "float32", 1, 2))), "config.json") == config


def test_a_config_as_transformers_itself_saves_it_is_understood() -> None:
    saved = json.loads(BambaConfig(**{**PLAIN, "time_step_limit": (0.0, float("inf"))}).to_json_string())
    assert config_of(saved, "config.json") == CONFIG
