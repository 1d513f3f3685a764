"""config.json of a `BambaForCausalLM`, both ways: each field that changes the function is understood or refused.

What decides the function stands in three tables: fields that are our shape, fields that must have one value because
this model has no other, and fields that change nothing. A field that is in none of them is refused by its name: a
model that opens and computes something else is worse than one that does not open.

The rotary embedding has three spellings: `rope_parameters` (transformers 5), `rope_theta` and `partial_rotary_factor`
beside `rope_scaling` (transformers 4), `attn_rotary_emb` (the features of a head that are rotated: the published
checkpoints and vLLM). We write all of them and read any; where two disagree, the libraries do too, and we refuse.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bamba_data.errors import UserError

from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig

#: Fields that have one value in every model of ours.
FIXED: dict[str, Any] = {
    "model_type": "bamba",
    "mamba_n_groups": 1,
    "mamba_d_conv": CONV_WIDTH,
    "mamba_proj_bias": False,
    "mamba_conv_bias": True,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "num_experts": 1,
    "pruned_heads": {},
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
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
    "mamba_expand": 2,
    "rms_norm_eps": 1e-5,
}

ROTARY = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "attn_rotary_emb"}

#: Fields that do not change what the model computes: how it is stored, trained further, or sampled from.
HARMLESS = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
    *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("use_cache", "use_bfloat16", "use_mamba_kernels", "torchscript", "return_dict", "tf_legacy_loss"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate", "num_logits_to_keep"),
    *("initializer_range", "z_loss_coefficient", "mamba_chunk_size", "max_position_embeddings", "type_vocab_size"),
    # What transformers 4 kept of its sampling defaults in every config.
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens", "cross_attention_hidden_size"),
}


def config_json(
    config: ModelConfig, max_position: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, Any]:
    """What config.json says of a model of ours. `max_position` is the longest row of its training, in tokens.

    Their defaults are not Bamba's (a state of 256, a padding row in the embedding, all layers Mamba), so none of the
    fields is left out.
    """
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
        "mamba_n_groups": 1,
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
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.rotary_fraction,
        },
        # transformers 4 reads these two, vLLM the third; none knows `rope_parameters`
        "rope_theta": config.rotary_base,
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


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    if not isinstance(theirs, dict):
        raise UserError(f"{where}: is no JSON object, so no config of a model")
    for field, wanted in FIXED.items():
        stated = theirs.get(field, wanted)
        if stated != wanted:
            raise UserError(f"{where}: {field} is {stated!r}, this model has {wanted!r}")
    _check_time_steps(theirs.get("time_step_limit"), where)
    if unknown := sorted(set(theirs) - {*FIXED, *SHAPE, *ROTARY, *HARMLESS, "time_step_limit"}):
        raise UserError(
            f"{where}: {', '.join(unknown)}: not known here, and may change what the model computes. Remove what does "
            "not, if you are sure"
        )
    shape = {field: theirs.get(field, default) for field, default in SHAPE.items()}
    if missing := [field for field, value in shape.items() if value is ...]:
        raise UserError(f"{where}: {', '.join(missing)}: missing, and no default is safe")
    try:
        return _model_config(shape, theirs, where)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: not a model of ours: {field} {first['msg']}".replace(":  ", ": ")) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a size is not a number ({error})") from None


def _model_config(shape: dict[str, Any], theirs: dict[str, Any], where: str) -> ModelConfig:
    inner = shape["mamba_expand"] * shape["hidden_size"]
    head_dim = shape["mamba_d_head"]
    if head_dim in ("auto", None):
        head_dim = inner // shape["mamba_n_heads"]
    if head_dim * shape["mamba_n_heads"] != inner:
        raise UserError(
            f"{where}: mamba_n_heads {shape['mamba_n_heads']} of mamba_d_head {head_dim} are not mamba_expand "
            f"{shape['mamba_expand']} times hidden_size {shape['hidden_size']}"
        )
    heads = shape["num_attention_heads"]
    base, fraction = rotary_of(theirs, shape["hidden_size"] // heads, where)
    return ModelConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        mlp_size=shape["intermediate_size"],
        layers=shape["num_hidden_layers"],
        attention_layers=list(shape["attn_layer_indices"] or []),
        attention_heads=heads,
        kv_heads=heads if shape["num_key_value_heads"] is None else shape["num_key_value_heads"],
        rotary_fraction=fraction,
        rotary_base=base,
        mamba_heads=shape["mamba_n_heads"],
        mamba_head_dim=head_dim,
        mamba_state=shape["mamba_d_state"],
        norm_eps=shape["rms_norm_eps"],
    )


def rotary_of(theirs: dict[str, Any], head_dim: int, where: str) -> tuple[float, float]:
    """(base, fraction of a head that is rotated), from all the places where a config says them.

    Raises UserError for a scaled rotary embedding (linear, dynamic, yarn, longrope, …) and where two places differ.
    """
    new, old = theirs.get("rope_parameters") or {}, theirs.get("rope_scaling") or {}
    for field, nested in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(nested, dict):
            raise UserError(f"{where}: {field} is no object")
        kind = nested.get("rope_type", nested.get("type", "default"))
        if kind != "default":
            raise UserError(f"{where}: {field} is of the type {kind!r}: this model has the plain rotary embedding only")
        if unknown := sorted(set(nested) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}):
            raise UserError(f"{where}: {field}.{unknown[0]}: not known here, and may change what the model computes")
    base = _agreed(_stated(theirs, new, old, "rope_theta"), "the base of the rotary embedding", 10_000.0, where)
    fractions = _stated(theirs, new, old, "partial_rotary_factor")
    widths = {place: int(head_dim * fraction) for place, fraction in fractions.items()}
    if theirs.get("attn_rotary_emb") is not None:
        widths["attn_rotary_emb"] = int(theirs["attn_rotary_emb"])
    width = _agreed(widths, "how many features of a head are rotated", head_dim // 2, where)
    inside = new.get("partial_rotary_factor", old.get("partial_rotary_factor", 0.5))
    if width != int(head_dim * inside):
        # transformers 5 sets 0.5 and looks at nothing outside, transformers 4 does, vLLM has a field of its own
        places = ", ".join(sorted(set(widths) - {"rope_parameters.partial_rotary_factor"}))
        raise UserError(
            f"{where}: by {places} {width} features of a head are rotated, transformers 5 would rotate "
            f"{int(head_dim * inside)}: say it in rope_parameters.partial_rotary_factor, too"
        )
    return base, next(iter(fractions.values()), width / head_dim)


def _stated(theirs: dict[str, Any], new: dict[str, Any], old: dict[str, Any], field: str) -> dict[str, float]:
    """Every value that a config states for `field`, by where."""
    places = {f"rope_parameters.{field}": new, f"rope_scaling.{field}": old, field: theirs}
    return {place: float(held[field]) for place, held in places.items() if held.get(field) is not None}


def _agreed(stated: Mapping[str, float], what: str, default: float, where: str) -> float:
    if len(set(stated.values())) > 1:
        both = ", ".join(f"{place} {value:g}" for place, value in stated.items())
        raise UserError(f"{where}: {what} is stated twice, and differs: {both}. Which one counts depends on the reader")
    return next(iter(stated.values()), default)


def _check_time_steps(limit: Any, where: str) -> None:
    """The limits of dt: (0, infinity) is none, since dt comes out of a softplus. Infinity has three spellings."""
    if limit is None:
        return
    ends = [end.get("__float__", end) if isinstance(end, dict) else end for end in limit]
    if len(ends) != 2 or float(ends[0]) > 0 or not math.isinf(float(ends[1])):
        raise UserError(f"{where}: time_step_limit is {limit!r}, this model limits no time step")
