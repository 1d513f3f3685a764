"""config.json of a dense `NemotronHForCausalLM`, both ways; fields are understood or refused.

Each layer is one of Mamba2, attention without positions, or an MLP of squared ReLU. The order of layers has two
spellings: `hybrid_override_pattern`, a letter a layer (published models), and `layers_block_type`, a word a layer
(what transformers 5 saves). We write the first, which all read, and read either.

Time steps: `time_step_limit` says what the model is (published ones limit nothing), and it is what NVIDIA's own code
reads; vLLM limits nothing whatever is stated; transformers 5 reads instead `time_step_min` as the least step, of
prompts alone and not of the tokens that it generates. So an export states a `time_step_min` that no step is below.
"""

from typing import Any

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from .config_fields import Fixed, agreed, checked, model_of, refuse_other_norm, same, shape_of, time_step_limits

#: Below any step that counts: a softplus of -46.
NO_LEAST_STEP = 1e-20

#: Fields that have one value in every model of ours with these layers.
FIXED: dict[str, Fixed] = {
    "model_type": same("nemotron_h"),
    "conv_kernel": same(CONV_WIDTH),
    "use_conv_bias": same(True),
    "use_bias": same(False),
    "mamba_proj_bias": same(False),
    "attention_bias": same(False),
    "mlp_bias": same(False),
    "tie_word_embeddings": same(False),
    "mamba_hidden_act": same("silu"),
    "mlp_hidden_act": same("relu2"),
    "hidden_act": same("relu2"),
    "attention_dropout": same(0.0),
    "hidden_dropout": same(0.0),
    "sliding_window": same(None),
    "num_nextn_predict_layers": same(0),
}

#: Fields that are our shape, with what `NemotronHConfig` takes where they are missing; `...`: we do not guess.
SHAPE: dict[str, Any] = {
    "vocab_size": ...,
    "hidden_size": ...,
    "intermediate_size": 21504,
    "num_attention_heads": ...,
    "num_key_value_heads": 8,
    "mamba_num_heads": ...,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
}

#: Two names each; what is stated by both must agree.
TWICE = {"layers_block_type", "hybrid_override_pattern", "num_hidden_layers", "head_dim", "attention_head_dim"}
TWICE |= {"layer_norm_epsilon", "rms_norm_eps"}

#: How it is computed, cached or begun; `expand` is what the two sizes say that count. Of experts, and of layers that
#: predict further tokens: there are none.
HARMLESS = {"expand", "chunk_size", "mamba_ssm_cache_dtype", "rescale_prenorm_residual", "residual_in_fp32"}
HARMLESS |= {"time_step_min", "time_step_max", "time_step_floor", "time_step_rank"}
OF_EXPERTS = {"n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size"}
OF_EXPERTS |= {"moe_latent_size", "moe_shared_expert_overlap", "num_experts_per_tok", "routed_scaling_factor"}
OF_EXPERTS |= {"n_group", "topk_group", "norm_topk_prob", "output_router_logits", "mtp_layers_block_type"}
OF_EXPERTS |= {"mtp_hybrid_override_pattern"}

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp"}
WORDS = {
    **{"mamba": "mamba", "linear_attention": "mamba", "attention": "attention", "full_attention": "attention"},
    "mlp": "mlp",
}


def config_json(
    config: ModelConfig, max_position: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, Any]:
    """What config.json says of a model of ours. `max_position` is the longest row of its training, in tokens."""
    letters = {kind: letter for letter, kind in LETTERS.items()}
    return {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.layers,
        "hybrid_override_pattern": "".join(letters[kind] for kind in config.layer_kinds or []),
        "num_attention_heads": config.attention_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "attention_head_dim": config.head_dim,
        "mamba_num_heads": config.mamba_heads,
        "mamba_head_dim": config.mamba_head_dim,
        "ssm_state_size": config.mamba_state,
        "n_groups": config.mamba_groups,
        "conv_kernel": CONV_WIDTH,
        "chunk_size": 128,
        "use_conv_bias": True,
        "use_bias": False,
        "mamba_proj_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "mamba_hidden_act": "silu",
        "mlp_hidden_act": "relu2",
        "hidden_act": "relu2",
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "layer_norm_epsilon": config.norm_eps,
        "rms_norm_eps": config.norm_eps,
        "time_step_limit": [0.0, float("inf")],
        "time_step_min": NO_LEAST_STEP,
        "residual_in_fp32": False,
        "tie_word_embeddings": False,
        "max_position_embeddings": max_position,
        "initializer_range": 0.02,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        "use_cache": bool(config.attention_indices),
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def refuse_unsayable(config: ModelConfig) -> None:
    """`UserError` for a model of ours that this layout cannot say."""
    refuse_other_norm(config, "nemotron")
    if config.layer_kinds is None:
        raise UserError(
            "the layout nemotron has layers of one kind each, and those of this model hold a mixer and an MLP: it is "
            "one of --layout bamba"
        )
    if config.mlp_indices and config.mlp_kind != "relu2":
        raise UserError(f"the layout nemotron has MLPs of relu2, and in this model mlp_kind is {config.mlp_kind}")
    if config.attention_indices and config.rotary_fraction:
        raise UserError(
            f"the layout nemotron attends without positions, and in this model rotary_fraction is "
            f"{config.rotary_fraction:g}"
        )


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    theirs = checked(theirs, FIXED, {*SHAPE, *TWICE, *HARMLESS, *OF_EXPERTS}, where)
    shape = shape_of(theirs, SHAPE, where)
    kinds = _layer_kinds(theirs, where)
    heads = shape["num_attention_heads"]
    try:
        epsilons = _stated(theirs, ("layer_norm_epsilon", "rms_norm_eps"))
        head_dims = _stated(theirs, ("head_dim", "attention_head_dim"))
        head_dim = int(agreed(head_dims, "the width of a head", 128, where))
        fields = {
            "vocab_size": shape["vocab_size"],
            "hidden_size": shape["hidden_size"],
            "mlp_size": shape["intermediate_size"] if "mlp" in kinds else 0,
            "mlp_kind": "relu2",
            "layers": len(kinds),
            "layer_kinds": kinds,
            "attention_heads": heads,
            "attention_head_dim": None if head_dim * heads == shape["hidden_size"] else head_dim,
            "kv_heads": heads if shape["num_key_value_heads"] is None else shape["num_key_value_heads"],
            "rotary_fraction": 0.0,
            "mamba_heads": shape["mamba_num_heads"],
            "mamba_head_dim": shape["mamba_head_dim"],
            "mamba_state": shape["ssm_state_size"],
            "mamba_groups": shape["n_groups"],
            "mamba_norm_groups": shape["n_groups"],
            "norm_eps": agreed(epsilons, "the epsilon of norms", 1e-5, where),
            **time_step_limits(theirs.get("time_step_limit"), f"{where}: time_step_limit"),
        }
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a size is not a number ({error})") from None
    return model_of(fields, where)


def remark_on(theirs: dict[str, Any]) -> str | None:
    """Where readers of this config differ, in words."""
    least = theirs.get("time_step_min", 1e-3)
    if not isinstance(least, int | float) or least <= NO_LEAST_STEP:
        return None
    return (
        f"time steps are as time_step_limit says. transformers 5 computes prompts with steps of at least {least:g} "
        "(time_step_min), and what it generates without"
    )


def _stated(theirs: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(theirs[name]) for name in names if theirs.get(name) is not None}


def _layer_kinds(theirs: dict[str, Any], where: str) -> list[str]:
    """Ours, of the one or the other spelling."""
    pattern, words = theirs.get("hybrid_override_pattern"), theirs.get("layers_block_type")
    if not pattern and not words:
        raise UserError(f"{where}: hybrid_override_pattern, layers_block_type: missing, and no default is safe")
    spelled: list[list[str]] = []
    for name, stated, known in (
        ("hybrid_override_pattern", pattern, LETTERS),
        ("layers_block_type", words, WORDS),
    ):
        if not stated:
            continue
        if unknown := sorted({str(kind) for kind in stated} - known.keys()):
            experts = ", a layer of experts, which this model has not" if unknown[0] in ("E", "moe") else ""
            raise UserError(f"{where}: {name}: {unknown[0]!r} is not known here{experts}")
        spelled.append([known[kind] for kind in stated])
    first, last = spelled[0], spelled[-1]
    if first != last:
        raise UserError(f"{where}: hybrid_override_pattern and layers_block_type name other layers: leave one out")
    if theirs.get("num_hidden_layers", len(first)) != len(first):
        raise UserError(
            f"{where}: num_hidden_layers is {theirs['num_hidden_layers']}, and {len(first)} layers are named"
        )
    return first
