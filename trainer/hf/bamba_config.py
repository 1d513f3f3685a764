"""config.json of a `BambaForCausalLM`, both ways; fields are understood or refused, as config_fields.py says.

The rotary embedding has three spellings: `rope_parameters` (transformers 5), `rope_theta` and `partial_rotary_factor`
beside `rope_scaling` (transformers 4), `attn_rotary_emb` (the features of a head that are rotated: the published
checkpoints and vLLM). We write all of them and read any; where two disagree, the libraries do too, and we refuse.
"""

from typing import Any

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from .config_fields import (
    Fixed,
    agreed,
    checked,
    mamba_sizes,
    model_of,
    refuse_other_layers,
    refuse_other_norm,
    same,
    shape_of,
    time_step_limits,
)
from .rotary_fields import base_of, is_scaled, scaled_in, stated

#: Fields that have one value in every model of ours.
FIXED: dict[str, Fixed] = {
    "model_type": same("bamba"),
    "mamba_d_conv": same(CONV_WIDTH),
    "mamba_proj_bias": same(False),
    "mamba_conv_bias": same(True),
    "attention_bias": same(False),
    "mlp_bias": same(False),
    "tie_word_embeddings": same(False),
    "hidden_act": same("silu"),
    "attention_dropout": same(0.0),
    "num_experts": same(1),
    "pruned_heads": same({}),
    "is_encoder_decoder": same(False),
    "is_decoder": same(False),
    "add_cross_attention": same(False),
    "tie_encoder_decoder": same(False),
    "chunk_size_feed_forward": same(0),
}

#: Fields that are our shape, with what `BambaConfig` takes where they are missing; `...` where we do not guess.
SHAPE: dict[str, Any] = {
    "vocab_size": ...,
    "hidden_size": ...,
    "intermediate_size": ...,
    "num_hidden_layers": ...,
    "num_attention_heads": ...,
    "num_key_value_heads": 8,
    "attn_layer_indices": None,
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "rms_norm_eps": 1e-5,
}

ROTARY = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "attn_rotary_emb"}


def config_json(
    config: ModelConfig, max_position: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, Any]:
    """What config.json says of a model of ours. `max_position` is the longest row of its training, in tokens.

    Their defaults are not Bamba's (a state of 256, a padding row in the embedding, all layers Mamba), so none of the
    fields is left out.
    """
    rotary = {
        **stated(config, max_position),
        "rope_theta": base_of(config),
        "partial_rotary_factor": config.rotary_fraction,
    }
    return {
        "architectures": ["BambaForCausalLM"],
        "model_type": "bamba",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.layers,
        "attn_layer_indices": config.attention_indices,
        "num_attention_heads": config.attention_heads,
        "num_key_value_heads": config.kv_heads,
        "mamba_n_heads": config.mamba_heads,
        "mamba_d_head": config.mamba_head_dim,
        "mamba_d_state": config.mamba_state,
        "mamba_n_groups": config.mamba_groups,
        "mamba_d_conv": CONV_WIDTH,
        "mamba_expand": config.inner_size // config.hidden_size,
        "mamba_chunk_size": 256,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": False,
        "max_position_embeddings": max_position,
        "rope_parameters": rotary,
        # transformers 4 reads these, vLLM the last; none knows `rope_parameters`
        **({"rope_scaling": rotary} if is_scaled(config) else {}),
        "rope_theta": rotary["rope_theta"],
        "partial_rotary_factor": config.rotary_fraction,
        "attn_rotary_emb": config.rotary_width,
        "z_loss_coefficient": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,  # their default, 0, would freeze the first row of the embedding
        # transformers 5.23 cannot count the tokens of a cache without attention layers, and fails in generate()
        "use_cache": bool(config.attention_indices),
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def refuse_unsayable(config: ModelConfig) -> None:
    """`UserError` for a model of ours that this layout cannot say."""
    refuse_other_layers(config, "bamba")
    refuse_other_norm(config, "bamba")


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    theirs = checked(theirs, FIXED, {*SHAPE, *ROTARY}, where)
    shape = shape_of(theirs, SHAPE, where)
    try:
        heads = shape["num_attention_heads"]
        base, fraction, scaled = rotary_of(theirs, shape["hidden_size"] // heads, where)
        fields = {
            "vocab_size": shape["vocab_size"],
            "hidden_size": shape["hidden_size"],
            "mlp_size": shape["intermediate_size"],
            "layers": shape["num_hidden_layers"],
            "attention_layers": list(shape["attn_layer_indices"] or []),
            "attention_heads": heads,
            "kv_heads": heads if shape["num_key_value_heads"] is None else shape["num_key_value_heads"],
            "rotary_fraction": fraction,
            "rotary_base": base,
            **scaled,
            "norm_eps": shape["rms_norm_eps"],
            **mamba_sizes(shape, where),
            **time_step_limits(theirs.get("time_step_limit"), f"{where}: time_step_limit"),
        }
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{where}: a size is not a number ({error})") from None
    return model_of(fields, where)


def rotary_of(theirs: dict[str, Any], head_dim: int, where: str) -> tuple[float, float, dict[str, Any]]:
    """(base, fraction of a head that is rotated, our fields for longer texts), from all the places where a config says
    them.

    Raises UserError for a kind of scaling that is not known, and where two places differ.
    """
    new, old = theirs.get("rope_parameters") or {}, theirs.get("rope_scaling") or {}
    scaled = scaled_in(
        {"rope_parameters": new, "rope_scaling": old}, theirs.get("max_position_embeddings", 262_144), where
    )
    base = agreed(_stated(theirs, new, old, "rope_theta"), "the base of the rotary embedding", 10_000.0, where)
    fractions = _stated(theirs, new, old, "partial_rotary_factor")
    widths = {place: int(head_dim * fraction) for place, fraction in fractions.items()}
    if theirs.get("attn_rotary_emb") is not None:
        widths["attn_rotary_emb"] = int(theirs["attn_rotary_emb"])
    width = agreed(widths, "how many features of a head are rotated", head_dim // 2, where)
    inside = new.get("partial_rotary_factor", old.get("partial_rotary_factor", 0.5))
    if width != int(head_dim * inside):
        # transformers 5 sets 0.5 and looks at nothing outside, transformers 4 does, vLLM has a field of its own
        places = ", ".join(sorted(set(widths) - {"rope_parameters.partial_rotary_factor"}))
        raise UserError(
            f"{where}: by {places} {width} features of a head are rotated, transformers 5 would rotate "
            f"{int(head_dim * inside)}: say it in rope_parameters.partial_rotary_factor, too"
        )
    return base, next(iter(fractions.values()), width / head_dim), scaled


def _stated(theirs: dict[str, Any], new: dict[str, Any], old: dict[str, Any], field: str) -> dict[str, float]:
    """Every value that a config states for `field`, by where."""
    places = {f"rope_parameters.{field}": new, f"rope_scaling.{field}": old, field: theirs}
    return {place: float(held[field]) for place, held in places.items() if held.get(field) is not None}
