"""config.json of a `Mamba2ForCausalLM` (Codestral-Mamba), both ways: layers of Mamba2 alone; fields are understood or
refused.

`norm_before_gate` and `rms_norm` stand in published configs and are read by nobody: the gate comes first, whatever is
said. transformers 4 takes the norm over all channels, 5, vLLM and mamba_ssm over each group, as the models were
trained. A head that is tied to the embedding is taken in as a copy, which learns by itself from here on.
"""

from typing import Any

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from .config_fields import Fixed, checked, model_of, refuse_other_norm, same, shape_of, time_step_limits

#: Fields that have one value in every model of ours of such layers.
FIXED: dict[str, Fixed] = {
    "model_type": same("mamba2"),
    "conv_kernel": same(CONV_WIDTH),
    "use_conv_bias": same(True),
    "use_bias": same(False),
    "hidden_act": same("silu"),
    "rms_norm": same(True),
}

#: Fields that are our shape, with what `Mamba2Config` takes where they are missing; `...`: we do not guess.
SHAPE: dict[str, Any] = {
    "vocab_size": ...,
    "hidden_size": ...,
    "num_hidden_layers": ...,
    "num_heads": ...,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 8,
    "expand": 2,
    "layer_norm_epsilon": 1e-5,
}

#: How it is computed or begun; or what follows of the sizes that count.
HARMLESS = {"norm_before_gate", "chunk_size", "residual_in_fp32", "rescale_prenorm_residual", "intermediate_size"}
HARMLESS |= {"time_step_rank", "time_step_min", "time_step_max", "time_step_floor", "time_step_scale"}
HARMLESS |= {"time_step_init_scheme", "tie_word_embeddings"}


def config_json(
    config: ModelConfig, max_position: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, Any]:
    """What config.json says of a model of ours. `max_position` is the longest row of its training, in tokens."""
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_heads": config.mamba_heads,
        "head_dim": config.mamba_head_dim,
        "state_size": config.mamba_state,
        "n_groups": config.mamba_groups,
        "expand": config.inner_size // config.hidden_size,
        "conv_kernel": CONV_WIDTH,
        "chunk_size": 256,
        "use_conv_bias": True,
        "use_bias": False,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "rms_norm": True,
        "residual_in_fp32": True,
        "time_step_limit": [0.0, float("inf")],
        "tie_word_embeddings": False,
        "max_position_embeddings": max_position,
        "initializer_range": 0.02,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        # transformers 5.23 cannot count the tokens of a cache without attention layers, and fails in generate()
        "use_cache": False,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def refuse_unsayable(config: ModelConfig) -> None:
    """`UserError` for a model of ours that this layout cannot say."""
    refuse_other_norm(config, "mamba2")
    if len(config.mamba_indices) < config.layers or config.mlp_indices:
        raise UserError(
            f"the layout mamba2 has layers of Mamba2 alone, and this model has {len(config.attention_indices)} of "
            f"attention and {len(config.mlp_indices)} with an MLP"
        )
    if config.inner_size % config.hidden_size:
        raise UserError(
            f"the layout mamba2 has an inner width that is a multiple of hidden_size {config.hidden_size}, and this "
            f"model's is {config.inner_size}"
        )


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    theirs = checked(theirs, FIXED, {*SHAPE, *HARMLESS}, where)
    shape = shape_of(theirs, SHAPE, where)
    try:
        inner = int(shape["expand"] * shape["hidden_size"])
        fields = {
            "vocab_size": shape["vocab_size"],
            "hidden_size": shape["hidden_size"],
            "mlp_size": 0,
            "layers": shape["num_hidden_layers"],
            "layer_kinds": ["mamba"] * shape["num_hidden_layers"],
            **{"attention_heads": 1, "kv_heads": 1, "rotary_fraction": 0.0},  # of no layer
            "mamba_heads": shape["num_heads"],
            "mamba_head_dim": shape["head_dim"],
            "mamba_state": shape["state_size"],
            "mamba_groups": shape["n_groups"],
            "mamba_norm_groups": shape["n_groups"],
            "norm_eps": shape["layer_norm_epsilon"],
            **time_step_limits(theirs.get("time_step_limit"), f"{where}: time_step_limit"),
        }
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a size is not a number ({error})") from None
    if inner != shape["num_heads"] * shape["head_dim"]:
        raise UserError(
            f"{where}: num_heads {shape['num_heads']} of head_dim {shape['head_dim']} are not expand {shape['expand']} "
            f"times hidden_size {shape['hidden_size']}"
        )
    return model_of(fields, where)


def is_tied(theirs: dict[str, Any]) -> bool:
    """Whether their head is the embedding."""
    return bool(theirs.get("tie_word_embeddings", False))
