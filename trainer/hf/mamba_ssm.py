"""A hybrid as `mamba_ssm` saves it (`MambaLMHeadModel.save_pretrained`), which is what Bamba-9B was trained as: its
config.json understood or refused, and where its tensors lie in ours.

Their config names a few sizes and leaves the rest to the defaults of the classes `Mamba2` and `MHA`, so what is not
stated here is what those take (mamba_ssm 2.2 to 2.3). Two matrices differ from what transformers has: `mlp.fc1` holds
up before gate, and `mixer.in_proj` of an attention layer holds q, k and v. A head that is tied to the embedding is
taken in as a copy, which learns by itself from here on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from .config_fields import Fixed, checked, model_of, same, shape_of, time_step_limits
from .tensor_mapping import TensorMapping

#: Fields that have one value in every model of ours.
FIXED: dict[str, Fixed] = {
    "rms_norm": same(True),
}
#: Of `ssm_cfg`, the arguments of `Mamba2`.
FIXED_MAMBA: dict[str, Fixed] = {
    "layer": Fixed("Mamba2", missing="Mamba1"),
    "d_conv": same(CONV_WIDTH),
    "d_ssm": same(None),
    "D_has_hdim": same(False),
    "rmsnorm": same(True),
    "norm_before_gate": same(False),
    "bias": same(False),
    "conv_bias": same(True),
}
#: Of `attn_cfg`, the arguments of `MHA`.
FIXED_ATTENTION: dict[str, Fixed] = {
    "causal": Fixed(True, missing=False),
    "d_conv": same(0),
    "mlp_dim": same(0),
    "qkv_proj_bias": Fixed(False, missing=True),
    "out_proj_bias": Fixed(False, missing=True),
    "softmax_scale": same(None),
    "rotary_emb_interleaved": same(False),
}

SHAPE: dict[str, Any] = {"d_model": ..., "n_layer": ..., "vocab_size": ..., "d_intermediate": 0}
TIED = "tie_embeddings"  # True where it is not stated
MAMBA_SHAPE: dict[str, Any] = {"d_state": 128, "expand": 2, "headdim": 64, "ngroups": 1}
ATTENTION_SHAPE: dict[str, Any] = {
    "num_heads": ...,
    "num_heads_kv": None,
    "head_dim": None,
    "rotary_emb_dim": 0,
    "rotary_emb_base": 10_000.0,
}

#: How it is computed or begun, not what.
HARMLESS = {"residual_in_fp32", "fused_add_norm", "attn_layer_idx", "ssm_cfg", "attn_cfg", "pad_vocab_size_multiple"}
HARMLESS_MAMBA = {"chunk_size", "use_mem_eff_path", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "conv_init"}


def is_mamba_ssm(theirs: Any) -> bool:
    """Whether config.json is of theirs: it has no `model_type`, and calls its sizes so."""
    return isinstance(theirs, dict) and "model_type" not in theirs and {"d_model", "n_layer"} <= theirs.keys()


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    theirs = checked(theirs, FIXED, {*SHAPE, *HARMLESS, TIED}, where)
    shape = shape_of(theirs, SHAPE, where)
    mamba = _part(theirs, "ssm_cfg", FIXED_MAMBA, {*MAMBA_SHAPE, *HARMLESS_MAMBA, "dt_limit"}, where)
    indices = list(theirs.get("attn_layer_idx") or [])
    layers: dict[str, Any] = {"attention_layers": indices}
    if not shape["d_intermediate"]:  # no layer has an MLP
        kinds = ["attention" if layer in indices else "mamba" for layer in range(shape["n_layer"])]
        layers = {"layer_kinds": kinds}
    fields = {
        "vocab_size": _up_to(shape["vocab_size"], theirs.get("pad_vocab_size_multiple", 8)),
        "hidden_size": shape["d_model"],
        "mlp_size": _up_to(shape["d_intermediate"], 128),  # as their GatedMLP makes it
        "layers": shape["n_layer"],
        **layers,
        "norm_eps": 1e-5,  # it cannot be stated
        **_mamba_fields(shape["d_model"], shape_of(mamba, MAMBA_SHAPE, f"{where}: ssm_cfg"), where),
        **_attention_fields(theirs, shape["d_model"], bool(indices), where),
        **time_step_limits(mamba.get("dt_limit"), f"{where}: ssm_cfg: dt_limit"),
    }
    return model_of(fields, where)


def _part(theirs: dict[str, Any], name: str, fixed: Mapping[str, Fixed], known: set[str], where: str) -> dict[str, Any]:
    """One of their two nested configs, with its lists for tuples."""
    part = theirs.get(name) or {}
    if isinstance(part, dict):
        part = {field: list(value) if isinstance(value, tuple) else value for field, value in part.items()}
    return checked(part, fixed, known, f"{where}: {name}")


def _mamba_fields(hidden: int, shape: Mapping[str, Any], where: str) -> dict[str, int]:
    inner, head_dim = shape["expand"] * hidden, shape["headdim"]
    if inner % head_dim:
        raise UserError(f"{where}: ssm_cfg.headdim {head_dim} does not divide the inner width {inner}")
    return {
        "mamba_heads": inner // head_dim,
        "mamba_head_dim": head_dim,
        "mamba_state": shape["d_state"],
        "mamba_groups": shape["ngroups"],
        "mamba_norm_groups": shape["ngroups"],  # as their Mamba2 makes its RMSNormGated
    }


def _attention_fields(theirs: dict[str, Any], hidden: int, attends: bool, where: str) -> dict[str, Any]:
    if not attends:
        if theirs.get("attn_cfg"):
            raise UserError(f"{where}: attn_cfg is stated, and attn_layer_idx names no layer that it would be of")
        return {"attention_heads": 1, "kv_heads": 1}
    part = _part(theirs, "attn_cfg", FIXED_ATTENTION, set(ATTENTION_SHAPE), where)
    shape = shape_of(part, ATTENTION_SHAPE, f"{where}: attn_cfg")
    heads = shape["num_heads"]
    head_dim = hidden // heads if shape["head_dim"] is None else shape["head_dim"]
    if head_dim * heads != hidden:
        raise UserError(
            f"{where}: attn_cfg: {heads} heads of head_dim {head_dim} are not d_model {hidden}: this model's heads are"
        )
    if not shape["rotary_emb_dim"]:
        raise UserError(f"{where}: attn_cfg.rotary_emb_dim is 0: no position is rotated, and this model rotates them")
    return {
        "attention_heads": heads,
        "kv_heads": heads if shape["num_heads_kv"] is None else shape["num_heads_kv"],
        "rotary_fraction": shape["rotary_emb_dim"] / head_dim,
        "rotary_base": shape["rotary_emb_base"],
    }


def _up_to(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def tensor_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """Every tensor of a `MambaLMHeadModel` with Mamba2 and MLPs, and where it lies in ours."""
    hidden, mlp = config.hidden_size, config.mlp_size
    yield TensorMapping("embedding.weight", "backbone.embedding.weight", 0, config.vocab_size)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"backbone.layers.{layer}"
        yield TensorMapping(f"{ours}.mixer_norm.weight", f"{theirs}.norm.weight", 0, hidden)
        if config.layer_kinds is None:
            yield TensorMapping(f"{ours}.mlp_norm.weight", f"{theirs}.norm2.weight", 0, hidden)
            # up before gate, ours gate before up
            halves = (*range(mlp, 2 * mlp), *range(mlp))
            fc1 = f"{theirs}.mlp.fc1.weight"
            yield TensorMapping(f"{ours}.mlp.gate_up.weight", fc1, 0, 2 * mlp, head_order=halves, linear=True)
            yield TensorMapping(f"{ours}.mlp.down.weight", f"{theirs}.mlp.fc2.weight", 0, hidden, linear=True)
        yield from _mixer(config, layer, f"{ours}.mixer", f"{theirs}.mixer")
    yield TensorMapping("head.norm.weight", "backbone.norm_f.weight", 0, hidden)
    yield TensorMapping("head.weight", "lm_head.weight", 0, config.vocab_size)


def _mixer(config: ModelConfig, layer: int, ours: str, theirs: str) -> Iterator[TensorMapping]:
    hidden = config.hidden_size
    if layer in config.attention_indices:
        rows = (config.attention_heads + 2 * config.kv_heads) * config.head_dim
        yield TensorMapping(f"{ours}.qkv.weight", f"{theirs}.in_proj.weight", 0, rows, linear=True)
        yield TensorMapping(f"{ours}.out.weight", f"{theirs}.out_proj.weight", 0, hidden, linear=True)
        return
    wide = config.inner_size + config.conv_channels + config.mamba_heads
    yield TensorMapping(f"{ours}.in_proj.weight", f"{theirs}.in_proj.weight", 0, wide, linear=True)
    yield TensorMapping(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", 0, config.conv_channels, middle=True)
    yield TensorMapping(f"{ours}.conv_bias", f"{theirs}.conv1d.bias", 0, config.conv_channels)
    for name in ("dt_bias", "A_log", "D"):
        yield TensorMapping(f"{ours}.{name}", f"{theirs}.{name}", 0, config.mamba_heads)
    yield TensorMapping(f"{ours}.norm_weight", f"{theirs}.norm.weight", 0, config.inner_size)
    yield TensorMapping(f"{ours}.out_proj.weight", f"{theirs}.out_proj.weight", 0, hidden, linear=True)
