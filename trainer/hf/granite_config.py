"""config.json of a dense `GraniteMoeHybridForCausalLM`, both ways; fields are understood or refused.

Our model is theirs with no experts and all multipliers 1. transformers ignores a partial rotary embedding there, vLLM
does not; both read frequencies one by one (longrope), so a partial one is said that way: the frequencies of the pairs
that ours rotates, and for the others a divisor so large that they stand still. granite_tensors.py has the order of rows
that goes with it. transformers 4 reads `rope_theta` and `rope_scaling`, 5 and vLLM `rope_parameters`: we write all.
"""

import math
from typing import Any

import torch

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from ..model.rotary import frequencies
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
from .rotary_fields import base_of, divisors_of, is_scaled, longrope, scaled_in

#: Divides the frequency of a pair that is not rotated: after 10^20 tokens its angle would still be nothing in float32.
STILL = 1e30

#: Fields that have one value in every model of ours.
FIXED: dict[str, Fixed] = {
    "model_type": same("granitemoehybrid"),
    "num_local_experts": Fixed(0, missing=8),
    "position_embedding_type": Fixed("rope", missing=None),
    "embedding_multiplier": same(1.0),
    "logits_scaling": same(1.0),
    "residual_multiplier": same(1.0),
    "mamba_d_conv": same(CONV_WIDTH),
    "mamba_proj_bias": same(False),
    "mamba_conv_bias": same(True),
    "attention_bias": same(False),
    "tie_word_embeddings": same(False),
    "hidden_act": same("silu"),
    "attention_dropout": same(0.0),
    "is_encoder_decoder": same(False),
    "is_decoder": same(False),
    "add_cross_attention": same(False),
    "tie_encoder_decoder": same(False),
    "chunk_size_feed_forward": same(0),
    "pruned_heads": same({}),
}

#: Fields that are our shape, with what `GraniteMoeHybridConfig` takes where they are missing; `...`: we do not guess.
SHAPE: dict[str, Any] = {
    "vocab_size": ...,
    "hidden_size": ...,
    "shared_intermediate_size": ...,
    "num_hidden_layers": ...,
    "num_attention_heads": ...,
    "num_key_value_heads": None,
    "layer_types": None,
    "attention_multiplier": 1.0,
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "rms_norm_eps": 1e-6,
}

ROTARY = {"rope_parameters", "rope_scaling", "rope_theta"}

#: Of experts, which a dense model has not: they change nothing.
OF_EXPERTS = {"intermediate_size", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef"}

#: Layers by the names of transformers 4 and 5.
MAMBA, ATTENTION = ("mamba", "linear_attention"), ("attention", "full_attention")


def config_json(
    config: ModelConfig, max_position: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, Any]:
    """What config.json says of a model of ours. `max_position` is the longest row of its training, in tokens."""
    attention = set(config.attention_indices)
    scaling = _frequencies(config, max_position)
    return {
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "model_type": "granitemoehybrid",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "shared_intermediate_size": config.mlp_size,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "num_hidden_layers": config.layers,
        "layer_types": [ATTENTION[0] if layer in attention else MAMBA[0] for layer in range(config.layers)],
        "num_attention_heads": config.attention_heads,
        "num_key_value_heads": config.kv_heads,
        "attention_multiplier": config.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "position_embedding_type": "rope",
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
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": False,
        "max_position_embeddings": max_position,
        "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": base_of(config)},
        "rope_theta": base_of(config),
        "rope_scaling": scaling,
        "initializer_range": 0.02,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        # transformers 5.23 cannot count the tokens of a cache without attention layers, and fails in generate()
        "use_cache": bool(attention),
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def refuse_unsayable(config: ModelConfig) -> None:
    """`UserError` for a model of ours that this layout cannot say."""
    refuse_other_layers(config, "granite")
    refuse_other_norm(config, "granite")
    if config.head_dim % 2:
        raise UserError(
            f"the layout granite rotates whole heads in pairs, and a head of this model has {config.head_dim} "
            "features: --layout bamba can say it"
        )


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    theirs = checked(theirs, FIXED, {*SHAPE, *ROTARY, *OF_EXPERTS}, where)
    shape = shape_of(theirs, SHAPE, where)
    try:
        heads = shape["num_attention_heads"]
        head_dim = shape["hidden_size"] // heads
        scale = float(shape["attention_multiplier"])
        fields = {
            "vocab_size": shape["vocab_size"],
            "hidden_size": shape["hidden_size"],
            "mlp_size": shape["shared_intermediate_size"],
            "layers": shape["num_hidden_layers"],
            "attention_layers": _attention_layers(shape["layer_types"], shape["num_hidden_layers"], where),
            "attention_heads": heads,
            "kv_heads": heads if shape["num_key_value_heads"] is None else shape["num_key_value_heads"],
            **_rotary_of(theirs, head_dim, where),
            "norm_eps": shape["rms_norm_eps"],
            **mamba_sizes(shape, where),
            **time_step_limits(theirs.get("time_step_limit"), f"{where}: time_step_limit"),
        }
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{where}: a size is not a number ({error})") from None
    if not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6):
        raise UserError(f"{where}: attention_multiplier is {scale:g}, this model has {head_dim**-0.5:g}")
    return model_of(fields, where)


def _attention_layers(layer_types: Any, layers: int, where: str) -> list[int]:
    """The indices of the attention layers; `None` is a model of Mamba layers alone."""
    kinds = [MAMBA[0]] * layers if layer_types is None else list(layer_types)
    if len(kinds) != layers:
        raise UserError(f"{where}: layer_types names {len(kinds)} layers, num_hidden_layers is {layers}")
    if unknown := sorted({str(kind) for kind in kinds} - {*MAMBA, *ATTENTION}):
        raise UserError(f"{where}: layer_types: {unknown[0]} is not known here")
    return [layer for layer, kind in enumerate(kinds) if kind in ATTENTION]


def _frequencies(config: ModelConfig, max_position: int) -> dict[str, Any] | None:
    """The frequencies as longrope states them; None where the base says all: whole heads, no other length.

    Every scaled embedding is said so, not by its own name: one of a part of a head cannot be said otherwise, and the
    two kinds that could are not worth a second way.
    """
    if config.rotary_width == config.head_dim and not is_scaled(config):
        return None
    head_dim = config.head_dim
    if config.rotary_width == head_dim and config.rotary_factors is not None:
        turning = config.rotary_factors
    else:
        turning = divisors_of(frequencies(config), base_of(config), head_dim)
    still = [STILL] * (head_dim // 2 - config.rotary_width // 2)
    said = longrope(config, turning + still, max_position)
    if said["attention_factor"] != 1:
        # vLLM looks at these, and computes the factor of transformers only from the two lengths
        said |= dict.fromkeys(("short_mscale", "long_mscale"), said["attention_factor"])
    return said


def _rotary_of(theirs: dict[str, Any], head_dim: int, where: str) -> dict[str, Any]:
    """Our fields of the rotary embedding; `UserError` for frequencies that are none of ours."""
    nested = {field: theirs[field] for field in ("rope_parameters", "rope_scaling") if theirs.get(field)}
    scaled = scaled_in(nested, theirs.get("max_position_embeddings", 2048), where)
    stated = {"rope_theta": theirs, **{f"{field}.rope_theta": parameters for field, parameters in nested.items()}}
    bases = {place: float(held["rope_theta"]) for place, held in stated.items() if held.get("rope_theta") is not None}
    base = agreed(bases, "the base of the rotary embedding", 10_000.0, where)
    for field, parameters in nested.items():
        if float(parameters.get("partial_rotary_factor", 1.0)) != 1.0:
            raise UserError(
                f"{where}: {field}.partial_rotary_factor: vLLM heeds it and transformers does not, so which model it "
                "is depends on the reader. State the frequencies by longrope, with rows in the order of an export"
            )
    divisors = scaled.get("rotary_factors")
    if divisors is None:
        return {"rotary_base": base, "rotary_fraction": 1.0, **scaled}
    return {"rotary_base": base, **scaled, **_of_divisors(divisors, "rotary_scale" in scaled, base, head_dim, where)}


def _of_divisors(divisors: list[float], scaled: bool, base: float, head_dim: int, where: str) -> dict[str, Any]:
    """Our `rotary_fraction` and `rotary_factors`, of what divides base^(-2i / head_dim); `scaled`: a `rotary_scale`
    goes with them, which wants them even where all are one."""
    turning = [divisor for divisor in divisors if divisor < STILL]
    width = 2 * len(turning)
    if not turning and len(divisors) == head_dim // 2:  # attention without positions
        return {"rotary_fraction": 1.0, "rotary_factors": divisors}
    if len(divisors) != head_dim // 2 or not turning or divisors[: len(turning)] != turning:
        raise UserError(
            f"{where}: long_factor: {len(divisors)} divisors of which the first {len(turning)} are below {STILL:g}: a "
            f"head of {head_dim} features has {head_dim // 2} pairs, and those that turn come first"
        )
    if width == head_dim:
        return {"rotary_fraction": 1.0, "rotary_factors": turning}
    waves = base ** (torch.arange(0, width, 2, dtype=torch.float32) / head_dim)
    ours = divisors_of(1.0 / (torch.tensor(turning, dtype=torch.float32) * waves), base, width)
    plain = not scaled and all(math.isclose(divisor, 1.0, rel_tol=1e-6) for divisor in ours)
    return {"rotary_fraction": width / head_dim, "rotary_factors": None if plain else ours}
