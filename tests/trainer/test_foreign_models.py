"""Models of others are imported as what they are, or refused by the field that this model cannot be."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention, silu, softplus
from transformers import BambaConfig, BambaForCausalLM

from bamba_data.errors import UserError
from tests.trainer.small import packed
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.hf.export import export
from trainer.hf.form import form_of
from trainer.hf.importing import imported

pytestmark = pytest.mark.slow

#: What public sources state of published configs; some are excerpts, none of a field that is refused here was added.
FOREIGN: dict[str, Any] = json.loads((Path(__file__).parent / "foreign_configs.json").read_text())

#: Of each published config: the shape that it is imported as, or the reason why it is none of ours.
IMPORTED = {
    "Bamba-9B": (9_780_235_392, [9, 18, 27], 0.5),
    "Bamba-9B-v2": (9_780_235_392, [9, 18, 27], 0.5),
    "fms-fsdp mamba_9.8b": (9_780_235_392, [9, 18, 27], 0.5),
}
SMALLER = "granite-4.0-h-micro"
ONE_KIND = {"Nemotron-H-8B", "Mamba-Codestral-7B", "mamba2-2.7b"}  # test_layer_kinds.py has the first two
REFUSED = {
    "mamba2attn-2.7b": "attn_cfg: d_conv is 4",
    "granite-4.0-h-small": "num_local_experts is 72",
    "Falcon-H1-7B": "model_type is 'falcon_h1'",
    "Zamba2-7B": "model_type is 'zamba2'",
    "Jamba-1.5-Mini": "model_type is 'jamba'",
}


def test_each_published_config_is_accounted_for() -> None:
    assert FOREIGN.keys() == IMPORTED.keys() | REFUSED.keys() | {SMALLER} | ONE_KIND and len(FOREIGN) >= 10


@pytest.mark.parametrize("name", IMPORTED)
def test_a_published_bamba_is_the_model_that_it_was_trained_as(name: str) -> None:
    config = form_of(FOREIGN[name], "config.json").config_of(FOREIGN[name], "config.json")
    assert (config.parameters, config.attention_indices, config.rotary_fraction) == IMPORTED[name]
    assert (config.mamba_heads, config.mamba_state, config.kv_heads, config.mlp_size) == (128, 128, 8, 14336)


def test_the_published_granite_hybrid_without_experts_is_one_of_ours() -> None:
    config = form_of(FOREIGN[SMALLER], "config.json").config_of(FOREIGN[SMALLER], "config.json")
    assert (config.attention_indices, config.mamba_heads, config.mlp_size) == ([5, 15, 25, 35], 64, 8192)
    assert config.rotary_factors == [1e30] * 32, "it attends without positions"


@pytest.mark.parametrize("name", REFUSED)
def test_a_published_model_that_ours_cannot_be_is_refused_by_the_field(name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]):
        form_of(FOREIGN[name], "config.json").config_of(FOREIGN[name], "config.json")


#: A hybrid as mamba_ssm makes it: heads of 16 of which half are rotated, two heads of keys.
SMALL: dict[str, Any] = {
    "d_model": 64,
    "d_intermediate": 128,
    "n_layer": 3,
    "vocab_size": 325,
    "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "d_state": 16},
    "attn_layer_idx": [1],
    "attn_cfg": {
        **{"causal": True, "d_conv": 0, "head_dim": 16, "num_heads": 4, "num_heads_kv": 2},
        **{"out_proj_bias": False, "qkv_proj_bias": False, "rotary_emb_dim": 8},
    },
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": False,
}


def mamba_ssm_weights(groups: int = 1) -> dict[str, Tensor]:
    """Drawn for SMALL with so many groups of heads, under the names of `MambaLMHeadModel`; queries and keys are so
    large that positions count."""
    draw = torch.Generator().manual_seed(3)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    channels = 128 + 32 * groups
    held = {"backbone.embedding.weight": torch.randn((336, 64), generator=draw)}
    for layer in range(3):
        at = f"backbone.layers.{layer}"
        held[f"{at}.norm.weight"], held[f"{at}.norm2.weight"] = 1 + 0.1 * weight(64), 1 + 0.1 * weight(64)
        held[f"{at}.mlp.fc1.weight"], held[f"{at}.mlp.fc2.weight"] = weight(256, 64), weight(64, 128)
        if layer == 1:
            held[f"{at}.mixer.in_proj.weight"] = weight(128, 64) * torch.tensor([4.0] * 96 + [1.0] * 32)[:, None]
            held[f"{at}.mixer.out_proj.weight"] = weight(64, 64)
            continue
        held[f"{at}.mixer.in_proj.weight"] = weight(128 + channels + 8, 64)
        held[f"{at}.mixer.out_proj.weight"] = weight(64, 128)
        held[f"{at}.mixer.conv1d.weight"], held[f"{at}.mixer.conv1d.bias"] = weight(channels, 1, 4), weight(channels)
        held[f"{at}.mixer.dt_bias"], held[f"{at}.mixer.D"] = weight(8) - 1, 1 + weight(8)
        held[f"{at}.mixer.A_log"], held[f"{at}.mixer.norm.weight"] = weight(8), 1 + weight(128)
    held["backbone.norm_f.weight"], held["lm_head.weight"] = torch.ones(64), weight(336, 64)
    return held


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def attended(x: Tensor, held: dict[str, Tensor]) -> Tensor:
    """Their MHA: q, k and v out of one product; the first 8 features of a head are turned, i with i + 4."""
    q, k, v = (x @ held["in_proj.weight"].T).unflatten(-1, (8, 16)).split([4, 2, 2], dim=1)
    angle = torch.arange(len(x))[:, None] * 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]

    def turned(y: Tensor) -> Tensor:
        first, second, rest = y[..., :4], y[..., 4:8], y[..., 8:]
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)

    q, k, v = (part.transpose(0, 1) for part in (turned(q), turned(k), v))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(0, 1).flatten(1) @ held["out_proj.weight"].T


def scanned(x: Tensor, held: dict[str, Tensor], limits: tuple[float, float]) -> Tensor:
    """Their Mamba2, one token after the other."""
    channels = len(held["conv1d.bias"])
    groups = (channels - 128) // 32
    z, mixed, dt = (x @ held["in_proj.weight"].T).split([128, channels, 8], dim=1)
    windows = pad(mixed.T, (3, 0)).unfold(1, 4, 1)  # (channels, tokens, 4)
    mixed = silu((windows * held["conv1d.weight"]).sum(-1).T + held["conv1d.bias"])
    inputs, b, c = mixed.split([128, 16 * groups, 16 * groups], dim=1)
    b, c = (part.unflatten(1, (groups, 16)).repeat_interleave(8 // groups, 1) for part in (b, c))  # by head
    inputs, dt = inputs.unflatten(1, (8, 16)), softplus(dt + held["dt_bias"]).clamp(*limits)
    state, out = torch.zeros(8, 16, 16), []
    for t in range(len(x)):
        decay = (-held["A_log"].exp() * dt[t]).exp()
        state = state * decay[:, None, None] + (dt[t][:, None] * inputs[t])[..., None] * b[t][:, None]
        out.append((state * c[t][:, None]).sum(-1) + held["D"][:, None] * inputs[t])
    gated = (torch.stack(out).flatten(1) * silu(z)).unflatten(1, (groups, -1))
    return rms(gated, held["norm.weight"].view(groups, -1)).flatten(1) @ held["out_proj.weight"].T


def their_logits(ids: Tensor, held: dict[str, Tensor], limits: tuple[float, float] = (0.0, math.inf)) -> Tensor:
    x = held["backbone.embedding.weight"][ids]
    for layer in range(3):
        at = f"backbone.layers.{layer}."
        part = {name.removeprefix(at): value for name, value in held.items() if name.startswith(at)}
        mixer = {name.removeprefix("mixer."): value for name, value in part.items() if name.startswith("mixer.")}
        normed = rms(x, part["norm.weight"])
        x = x + (attended(normed, mixer) if layer == 1 else scanned(normed, mixer, limits))
        if "norm2.weight" not in part:
            continue
        up, gate = (rms(x, part["norm2.weight"]) @ part["mlp.fc1.weight"].T).chunk(2, dim=-1)
        x = x + (up * silu(gate)) @ part["mlp.fc2.weight"].T
    return rms(x, held["backbone.norm_f.weight"]) @ held["lm_head.weight"].T


def folder_of(place: Path, config: dict[str, Any], held: dict[str, Tensor]) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    torch.save(held, place / "pytorch_model.bin")
    return place


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_checkpoint_of_mamba_ssm_computes_here_what_it_computes_there(tmp_path: Path, groups: int) -> None:
    held = mamba_ssm_weights(groups)
    config = changed(ssm_cfg={**SMALL["ssm_cfg"], "ngroups": groups})
    imported(folder_of(tmp_path / "theirs", config, held), str(tmp_path / "run"))
    back = SavedCheckpoint(str(tmp_path / "run"))
    ids, documents, positions, _ = packed([50])
    with torch.no_grad():
        ours = back.model(torch.device("cpu"), torch.float32)
        mine, wanted = ours.logits(ids, documents, positions)[0], their_logits(ids[0], held)
        otherwise = ours.logits(ids, documents, positions // 2)[0]
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (mine - otherwise).abs().max() > 0.01 * wanted.abs().max(), "so flat that a wrong rotation would not show"
    export(back, tmp_path / "hf", torch.float32, None)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == 336


def test_layers_without_an_mlp_a_tied_head_and_limits_of_steps_are_taken_from_mamba_ssm_too(tmp_path: Path) -> None:
    drawn = mamba_ssm_weights(2)
    held = {name: value for name, value in drawn.items() if ".mlp." not in name and "norm2" not in name}
    held["lm_head.weight"] = held["backbone.embedding.weight"]
    ssm = {**SMALL["ssm_cfg"], "ngroups": 2, "dt_limit": [0.1, 0.3]}
    config = changed(ssm_cfg=ssm, d_intermediate=0, tie_embeddings=True)
    imported(folder_of(tmp_path / "theirs", config, held), str(tmp_path / "run"))
    ours = SavedCheckpoint(str(tmp_path / "run")).model(torch.device("cpu"), torch.float32)
    ids, documents, positions, _ = packed([50])
    with torch.no_grad():
        mine = ours.logits(ids, documents, positions)[0]
    wanted, free = their_logits(ids[0], held, (0.1, 0.3)), their_logits(ids[0], held)
    assert (mine - wanted).abs().max() < 1e-4 * wanted.abs().max() < 1e-2 * (free - wanted).abs().max()
    assert ours.config.layer_kinds == ["mamba", "attention", "mamba"]


def changed(**fields: Any) -> dict[str, Any]:
    return {**SMALL, **fields}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (changed(rms_norm=False), "rms_norm is False"),
        (changed(moe_cfg={"n_routed_experts": 64}), "moe_cfg: not known here"),
        (changed(ssm_cfg={"layer": "Mamba1"}), "config.json: ssm_cfg: layer is 'Mamba1'"),
        (changed(ssm_cfg={}), "ssm_cfg: layer is 'Mamba1'"),
        (changed(ssm_cfg={"layer": "Mamba2", "headdim": 16, "ngroups": 3}), "mamba_groups: 3 do not divide"),
        (changed(ssm_cfg={"layer": "Mamba2", "headdim": 16, "dt_limit": [0.1]}), r"dt_limit is \[0\.1\], not two"),
        (changed(ssm_cfg={"layer": "Mamba2", "sparsity": 2}), "ssm_cfg: sparsity: not known here"),
        (changed(attn_cfg={**SMALL["attn_cfg"], "d_conv": 4}), "attn_cfg: d_conv is 4"),
        (changed(attn_cfg={**SMALL["attn_cfg"], "rotary_emb_dim": 0}), "attn_cfg.rotary_emb_dim is 0"),
        (changed(attn_cfg={**SMALL["attn_cfg"], "head_dim": 32}), "4 heads of head_dim 32 are not d_model 64"),
        (changed(attn_cfg={"num_heads": 4}), "attn_cfg: causal is False"),
        (changed(attn_layer_idx=[]), "attn_cfg is stated, and attn_layer_idx names no layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_mamba_ssm_can_be_and_this_model_cannot_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        form_of(config, "config.json").config_of(config, "config.json")


def test_a_bin_file_runs_no_code_and_holds_tensors_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "theirs", SMALL, mamba_ssm_weights())
    torch.save({"weight": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: not readable as weights that torch saved"):
        imported(folder, str(tmp_path / "run"))
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds something other than tensors by name"):
        imported(folder, str(tmp_path / "run"))
    (folder / "pytorch_model.bin").write_bytes(b"PK\3\4 cut")
    with pytest.raises(UserError, match="not readable as weights"):
        imported(folder, str(tmp_path / "run"))


def test_the_longest_text_of_an_imported_bamba_is_said_again(tmp_path: Path) -> None:
    config = {**FOREIGN["Bamba-9B"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    config |= {"attn_layer_indices": [0], "num_attention_heads": 4, "num_key_value_heads": 2, "attn_rotary_emb": 8}
    config |= {"vocab_size": 331, "mamba_n_heads": 8, "mamba_d_head": 16, "max_position_embeddings": 262_144}
    BambaForCausalLM(BambaConfig(**config)).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    imported(tmp_path / "hf", str(tmp_path / "back"))
    export(SavedCheckpoint(str(tmp_path / "back")), tmp_path / "again", torch.float32, None)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["max_position_embeddings"] == 262_144
