"""Models whose layers are one of Mamba2, attention or MLP: what transformers computes of them, in, out and in again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM, NemotronHConfig, NemotronHForCausalLM, PreTrainedModel

from bamba_data.errors import UserError
from tests.trainer.greedy import prompts, recomputed, texts
from tests.trainer.small import CONFIG, model, packed, saved
from trainer.arithmetic.model_parts import ModelCost
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf import mamba2_config, nemotron_config
from trainer.hf.export import export
from trainer.hf.form import BAMBA, GRANITE, MAMBA2, NEMOTRON, FolderForm, form_of
from trainer.hf.importing import imported
from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig

pytestmark = pytest.mark.slow

KINDS = ["mamba", "mlp", "mamba", "attention", "mlp", "mamba"]
#: Heads of attention that are wider together than the hidden states, and an inner width that is no multiple of them.
NEMOTRON_SHAPE = ModelConfig(
    **{"vocab_size": 331, "hidden_size": 64, "mlp_size": 96, "mlp_kind": "relu2", "layers": 6, "layer_kinds": KINDS},
    **{"attention_heads": 5, "attention_head_dim": 16, "kv_heads": 1, "rotary_fraction": 0.0},
    **{"mamba_heads": 6, "mamba_head_dim": 16, "mamba_state": 16, "mamba_groups": 2, "mamba_norm_groups": 2},
)
MAMBA2_SHAPE = ModelConfig(
    **{"vocab_size": 331, "hidden_size": 64, "mlp_size": 0, "layers": 3, "layer_kinds": ["mamba"] * 3},
    **{"attention_heads": 1, "kv_heads": 1, "rotary_fraction": 0.0},
    **{"mamba_heads": 8, "mamba_head_dim": 16, "mamba_state": 16, "mamba_groups": 4, "mamba_norm_groups": 4},
)
FORMS: dict[str, tuple[FolderForm, ModelConfig, type[PreTrainedModel]]] = {
    "nemotron": (NEMOTRON, NEMOTRON_SHAPE, NemotronHForCausalLM),
    "mamba2": (MAMBA2, MAMBA2_SHAPE, Mamba2ForCausalLM),
}


def largely_drawn(ours: PreTrainedModel) -> PreTrainedModel:
    """A model of theirs with values so large that each of its parts counts."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=3 / parameter.shape[1] ** 0.5)
            elif name.endswith(("dt_bias", "A_log")):
                parameter.uniform_(-3, 0)
            else:
                parameter.uniform_(0.5, 1.5)
    return ours.eval()


def differs(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@torch.no_grad()
def logits_of(back: SavedCheckpoint, ids: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
    return back.model(torch.device("cpu"), torch.float32).logits(ids, documents, positions)


@torch.no_grad()
def theirs_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", FORMS)
def test_an_export_has_the_logits_of_the_model_and_comes_back_with_the_same_bits(tmp_path: Path, name: str) -> None:
    form, config, their_class = FORMS[name]
    ours = model(config=config)
    export(saved(tmp_path / "run", ours), tmp_path / "hf", torch.float32, None, form)
    theirs = their_class.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids, documents, positions, _ = packed([300])  # several of their chunks
    with torch.no_grad():
        wanted = ours.logits(ids, documents, positions)
    assert differs(theirs_of(theirs, ids), wanted) < 2e-5
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back = SavedCheckpoint(str(tmp_path / "back"))
    assert back.config == config
    for key, value in ours.named_parameters():
        assert torch.equal(back.tensor(f"model.{key}"), value), key
    export(back, tmp_path / "again", torch.float32, None, form)
    for file in sorted((tmp_path / "hf").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize("least", [1e-20, 0.1])
def test_a_nemotron_of_transformers_is_imported_as_what_it_computes(tmp_path: Path, least: float) -> None:
    stated = nemotron_config.config_json(NEMOTRON_SHAPE, 256, "float32", None, None)
    theirs = largely_drawn(NemotronHForCausalLM(NemotronHConfig(**{**stated, "time_step_min": least})))
    theirs.save_pretrained(tmp_path / "hf")
    said = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert "layers_block_type" in said and "hybrid_override_pattern" not in said
    if least == 0.1:  # what transformers makes of time_step_min, time_step_limit says to us
        (tmp_path / "hf" / "config.json").write_text(json.dumps({**said, "time_step_limit": [least, float("inf")]}))
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back, row = SavedCheckpoint(str(tmp_path / "back")), packed([300])[:3]
    wanted = theirs_of(theirs, row[0])
    assert differs(logits_of(back, *row), wanted) < 2e-5
    if least == 0.1:
        unlimited = back.model(torch.device("cpu"), torch.float32)
        for block in unlimited.blocks:
            if block.mixer is not None and hasattr(block.mixer, "dt_min"):
                block.mixer.dt_min = 0.0
        with torch.no_grad():
            assert differs(unlimited.logits(*row), wanted) > 1e-2, "the limit would not show"
        with pytest.raises(UserError, match=r"mamba_dt_min is 0\.1, mamba_dt_max None"):
            export(back, tmp_path / "again", torch.float32, None, NEMOTRON)


@pytest.mark.parametrize("tied", [False, True])
def test_a_mamba2_of_transformers_is_imported_as_what_it_computes(tmp_path: Path, tied: bool) -> None:
    stated = mamba2_config.config_json(MAMBA2_SHAPE, 256, "float32", None, None)
    limits = {"time_step_limit": (0.05, 0.2), "tie_word_embeddings": tied, "norm_before_gate": True}
    theirs = largely_drawn(Mamba2ForCausalLM(Mamba2Config(**{**stated, **limits})))
    theirs.save_pretrained(tmp_path / "hf")
    imported(tmp_path / "hf", str(tmp_path / "back"))
    back, row = SavedCheckpoint(str(tmp_path / "back")), packed([300])[:3]
    assert (back.config.mamba_dt_min, back.config.mamba_dt_max) == (0.05, 0.2)
    assert differs(logits_of(back, *row), theirs_of(theirs, row[0])) < 2e-5
    assert torch.equal(back.tensor("model.head.weight"), back.tensor("model.embedding.weight")) is tied


@pytest.mark.parametrize("config", [NEMOTRON_SHAPE, MAMBA2_SHAPE.model_copy(update={"mamba_dt_max": 0.05})])
def test_what_is_written_token_by_token_is_what_the_whole_text_gives(config: ModelConfig) -> None:
    ours, given = model(config=config), prompts([1, 3, 70])
    assert texts(ours, given, 6) == [recomputed(ours, prompt, 6) for prompt in given]


@pytest.mark.parametrize("config", [NEMOTRON_SHAPE, MAMBA2_SHAPE, CONFIG])
def test_documents_of_a_row_are_apart_and_all_parameters_learn_and_are_counted(config: ModelConfig) -> None:
    ours, lengths = model(config=config), [5, 70, 1, 20]
    ids, documents, positions, labels = packed(lengths)
    total, each = ours.losses(ids, documents, positions, labels)
    total.backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in ours.named_parameters() if parameter.grad is None] == []
    start = 0
    for length in lengths:
        own = slice(start, start + length)
        alone = (ids[:, own], documents[:, own] * 0, positions[:, own], labels[:, own])
        assert torch.allclose(ours.losses(*alone)[1], each[:, own], atol=2e-5)
        start += length
    assert sum(parameter.numel() for parameter in ours.parameters()) == config.parameters
    assert ModelCost(config).parameters == config.parameters


def test_published_sizes_are_those_that_their_makers_state() -> None:
    foreign: dict[str, Any] = json.loads((Path(__file__).parent / "foreign_configs.json").read_text())
    for name, parameters, mixers in (
        ("Nemotron-H-8B", 8_100_000_000, (24, 4, 24)),
        ("Mamba-Codestral-7B", 7_285_403_648, (64, 0, 0)),
    ):
        config = form_of(foreign[name], name).config_of(foreign[name], name)
        assert config.parameters == pytest.approx(parameters, rel=2e-3)
        assert (len(config.mamba_indices), len(config.attention_indices), len(config.mlp_indices)) == mixers
        with torch.device("meta"):
            made = Bamba(config)
        assert sum(parameter.numel() for parameter in made.parameters()) == config.parameters


PATTERN = nemotron_config.config_json(NEMOTRON_SHAPE, 256, "float32", None, None)
ALONE = mamba2_config.config_json(MAMBA2_SHAPE, 256, "float32", None, None)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {**PATTERN, "hybrid_override_pattern": "M-MEM*"},
            "hybrid_override_pattern: 'E' is not known here, a layer of",
        ),
        ({**PATTERN, "layers_block_type": ["mamba"] * 6}, "hybrid_override_pattern and layers_block_type name other"),
        ({**PATTERN, "num_hidden_layers": 7}, "num_hidden_layers is 7, and 6 layers are named"),
        ({**PATTERN, "hybrid_override_pattern": None}, "hybrid_override_pattern, layers_block_type: missing"),
        ({**PATTERN, "attention_head_dim": 32}, "the width of a head is stated twice, and differs"),
        ({**PATTERN, "rms_norm_eps": 1e-6}, "the epsilon of norms is stated twice, and differs"),
        ({**PATTERN, "mlp_hidden_act": "silu"}, "mlp_hidden_act is 'silu', this model has 'relu2'"),
        ({**PATTERN, "sliding_window": 512}, "sliding_window is 512"),
        ({**PATTERN, "rope_theta": 1e4}, "rope_theta: not known here"),
        ({**PATTERN, "num_nextn_predict_layers": 1}, "num_nextn_predict_layers is 1"),
        ({**PATTERN, "time_step_limit": [0.1]}, r"time_step_limit is \[0.1\], not two numbers"),
        ({**ALONE, "use_bias": True}, "use_bias is True"),
        ({**ALONE, "expand": 3}, "num_heads 8 of head_dim 16 are not expand 3 times hidden_size 64"),
        ({**ALONE, "head_dim": 12, "num_heads": 8, "expand": 1.5}, "heads of 12 channels: the kernels take multiples"),
        ({**ALONE, "hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({**ALONE, "conv_kernel": 3}, "conv_kernel is 3, this model has 4"),
    ],
    ids=str,
)
def test_what_this_model_cannot_be_is_refused_by_the_field(config: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        form_of(config, "config.json").config_of(config, "config.json")


@pytest.mark.parametrize(
    ("form", "config", "named"),
    [
        (BAMBA, NEMOTRON_SHAPE, "layer_kinds is stated"),
        (GRANITE, MAMBA2_SHAPE, "layer_kinds is stated"),
        (BAMBA, CONFIG.model_copy(update={"mlp_kind": "relu2"}), "mlp_kind is relu2"),
        (BAMBA, CONFIG.model_copy(update={"attention_head_dim": 32}), "attention_head_dim is 32, of 4 heads"),
        (GRANITE, CONFIG.model_copy(update={"rotary_fraction": 0.0}), "rotary_fraction 0"),
        (BAMBA, CONFIG.model_copy(update={"mamba_dt_min": 0.1}), "mamba_dt_min is 0.1"),
        (NEMOTRON, CONFIG, "those of this model hold a mixer and an MLP"),
        (NEMOTRON, NEMOTRON_SHAPE.model_copy(update={"mlp_kind": "swiglu"}), "mlp_kind is swiglu"),
        (NEMOTRON, NEMOTRON_SHAPE.model_copy(update={"rotary_fraction": 0.5}), "rotary_fraction is 0.5"),
        (MAMBA2, NEMOTRON_SHAPE, "has 1 of attention and 2 with an MLP"),
        (
            MAMBA2,
            MAMBA2_SHAPE.model_copy(update={"mamba_heads": 6, "mamba_groups": 2, "mamba_norm_groups": 2}),
            "is 96",
        ),
    ],
)
def test_what_a_layout_cannot_say_is_refused(form: FolderForm, config: ModelConfig, named: str) -> None:
    with pytest.raises(UserError, match=named):
        form.refuse_unsayable(config)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer_kinds": KINDS[:5]}, "layer_kinds: 5 of them, layers is 6"),
        ({"attention_layers": [1]}, "layer_kinds: each says of its layer what it is, attention_layers too"),
        ({"mlp_size": 0}, "mlp_size: 0, and 2 layers have an MLP"),
        ({"mamba_dt_min": 0.2, "mamba_dt_max": 0.1}, r"mamba_dt_max: 0\.1 is below mamba_dt_min 0\.2"),
        ({"rotary_factors": [1.0]}, "rotary_fraction: 0 is attention without positions"),
    ],
)
def test_shapes_that_contradict_themselves_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ModelConfig.model_validate({**NEMOTRON_SHAPE.model_dump(), **change})


def test_what_is_written_down_of_bamba_s_own_shape_has_none_of_the_new_words() -> None:
    said = CONFIG.model_dump(mode="json")
    assert not said.keys() & {"layer_kinds", "mlp_kind", "attention_head_dim", "mamba_dt_min", "mamba_dt_max"}
