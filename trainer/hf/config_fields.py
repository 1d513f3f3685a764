"""What every config.json of a foreign model is read with: fields are understood, or refused by their names.

A reader has three tables: fields that are our shape, fields that must have one value because this model has no other,
and fields that change nothing. What is in none of them is refused: a model that opens and computes something else is
worse than one that does not open.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from bamba_data.errors import UserError, first_fault

from ..model.config import ModelConfig

#: Fields of any config that do not change what a model computes: how it is stored, trained further, or sampled from.
HARMLESS = frozenset(
    {
        *("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
        *("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class"),
        *("prefix", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
        *("use_cache", "use_bfloat16", "use_mamba_kernels", "torchscript", "return_dict", "tf_legacy_loss"),
        *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"),
        *("num_logits_to_keep", "initializer_range", "z_loss_coefficient", "mamba_chunk_size"),
        *("max_position_embeddings", "type_vocab_size"),
        # What transformers 4 kept of its sampling defaults in every config.
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
        *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
        *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
        *("suppress_tokens", "begin_suppress_tokens", "cross_attention_hidden_size"),
    }
)


class Fixed(NamedTuple):
    """A field that has one value in every model of ours. `missing` is what the library takes where it is not stated."""

    value: Any
    missing: Any


def same(value: Any) -> Fixed:
    """One value, which the library takes as well where the field is not stated."""
    return Fixed(value, value)


def checked(theirs: Any, fixed: Mapping[str, Fixed], known: Iterable[str], where: str) -> dict[str, Any]:
    """The config, a JSON object whose fixed fields have our values, and that has no field outside `fixed` and `known`.

    Raises:
        UserError: It names the field, what it says and what it must be.
    """
    if not isinstance(theirs, dict):
        raise UserError(f"{where}: is no JSON object, so no config of a model")
    for field, (wanted, missing) in fixed.items():
        stated = theirs.get(field, missing)
        if not _equal(stated, wanted):
            raise UserError(f"{where}: {field} is {stated!r}, this model has {wanted!r}")
    if "quantization_config" in theirs:
        raise UserError(f"{where}: quantization_config: its weights are codes: take the folder they were made of")
    if unknown := sorted(set(theirs) - {*fixed, *known, *HARMLESS, "time_step_limit"}):
        raise UserError(
            f"{where}: {', '.join(unknown)}: not known here, and may change what the model computes. Remove what does "
            "not, if you are sure"
        )
    return theirs


def shape_of(theirs: Mapping[str, Any], shape: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that are our shape, with the library's defaults; `...` in `shape` is a size without a safe one."""
    found = {field: theirs.get(field, default) for field, default in shape.items()}
    if missing := [field for field, value in found.items() if value is ...]:
        raise UserError(f"{where}: {', '.join(missing)}: missing, and no default is safe")
    for field, default in shape.items():
        if default is ... and (not isinstance(found[field], int) or found[field] < 1):
            raise UserError(f"{where}: {field} is {found[field]!r}, no whole number above 0")
    return found


def mamba_sizes(shape: Mapping[str, Any], where: str) -> dict[str, int]:
    """Our fields of the Mamba2 blocks, from the `mamba_*` fields that Bamba and Granite share."""
    inner = shape["mamba_expand"] * shape["hidden_size"]
    head_dim = shape["mamba_d_head"]
    if head_dim in ("auto", None):
        head_dim = inner // shape["mamba_n_heads"]
    if head_dim * shape["mamba_n_heads"] != inner:
        raise UserError(
            f"{where}: mamba_n_heads {shape['mamba_n_heads']} of mamba_d_head {head_dim} are not mamba_expand "
            f"{shape['mamba_expand']} times hidden_size {shape['hidden_size']}"
        )
    return {
        "mamba_heads": shape["mamba_n_heads"],
        "mamba_head_dim": head_dim,
        "mamba_state": shape["mamba_d_state"],
        "mamba_groups": shape["mamba_n_groups"],
        "mamba_norm_groups": shape["mamba_n_groups"],
    }


def refuse_other_layers(config: ModelConfig, layout: str) -> None:
    """`UserError` for a model whose layers are not Bamba's, for the layouts that have no others: each holds a mixer and
    a gated MLP, heads share the hidden_size, and positions count."""
    heads = config.attention_size != config.hidden_size or not config.rotary_fraction
    faults = {
        "layer_kinds is stated: a layer holds a mixer or an MLP": config.layer_kinds is not None,
        f"mlp_kind is {config.mlp_kind}": config.mlp_kind != "swiglu" and bool(config.mlp_indices),
        f"attention_head_dim is {config.head_dim}, of {config.attention_heads} heads, and rotary_fraction "
        f"{config.rotary_fraction:g}": heads and bool(config.attention_indices),
    }
    if fault := next((fault for fault, present in faults.items() if present), None):
        raise UserError(
            f"the layout {layout} has layers of a mixer and a SwiGLU, heads of hidden_size / attention_heads and "
            f"rotary positions, and in this model {fault}. Layers of one kind each: --layout nemotron; of Mamba2 "
            "alone: --layout mamba2"
        )


def refuse_other_norm(config: ModelConfig, layout: str) -> None:
    """`UserError` for a model whose groups of the norm are not its groups of heads (others have one number), or that
    limits its time steps (no library does in every step)."""
    if config.mamba_indices and (config.mamba_dt_min or config.mamba_dt_max is not None):
        raise UserError(
            f"the layout {layout}: this model's mamba_dt_min is {config.mamba_dt_min:g}, mamba_dt_max "
            f"{config.mamba_dt_max}: those who open it limit the time steps of a prompt, or none, and never those of "
            "what they generate, so no layout can say it"
        )
    if config.mamba_norm_groups != config.mamba_groups and config.mamba_indices:
        raise UserError(
            f"the layout {layout} takes the norm over each group of heads, and in this model mamba_groups is "
            f"{config.mamba_groups}, mamba_norm_groups {config.mamba_norm_groups}: no layout can say it"
        )


def model_of(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Our config of our fields; `UserError` where our model cannot have this shape."""
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        raise UserError(f"{where}: not a model of ours: {first_fault(error)}") from None


def agreed(stated: Mapping[str, float], what: str, default: float, where: str) -> float:
    """The one value that all places state; `default` where none does, `UserError` where two differ."""
    if len(set(stated.values())) > 1:
        both = ", ".join(f"{place} {value:g}" for place, value in stated.items())
        raise UserError(f"{where}: {what} is stated twice, and differs: {both}. Which one counts depends on the reader")
    return next(iter(stated.values()), default)


def _equal(stated: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(stated, int | float):
        return math.isclose(stated, wanted, rel_tol=1e-9)
    return bool(stated == wanted)


def time_step_limits(limit: Any, where: str) -> dict[str, float]:
    """Our fields of the least and the largest time step, [least, largest] or None of theirs; without an end that limits
    nothing: 0, since steps come out of a softplus, and infinity, which has three spellings."""
    if limit is None:
        return {}
    try:
        least, largest = (float(end.get("__float__", end) if isinstance(end, dict) else end) for end in limit)
    except (TypeError, ValueError):
        raise UserError(f"{where} is {limit!r}, not two numbers") from None
    found = {"mamba_dt_min": least} if least > 0 else {}
    return found if math.isinf(largest) else {**found, "mamba_dt_max": largest}
