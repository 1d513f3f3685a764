"""How a config.json of Hugging Face's states frequencies for longer texts, and what it means as ours, both ways.

`rope_parameters` (transformers 5) and `rope_scaling` (transformers 4) hold the same fields, by `rope_type`:

    linear      factor
    yarn        factor, original_max_position_embeddings, attention_factor, beta_fast, beta_slow, truncate
    longrope    short_factor, long_factor, factor, original_max_position_embeddings, attention_factor

Two kinds change the frequencies with the length of a text, so what a token sees depends on how many come after it:
`dynamic`, and longrope with two lists. This model has one set for all lengths, and refuses them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import UserError

from ..model.config import ModelConfig
from ..model.rotary import scaled_base

#: By kind, the fields beside the base and the rotated share of a head. vLLM reads longrope's last two.
FIELDS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "yarn": frozenset(
        {
            *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
            *("mscale", "mscale_all_dim", "truncate"),
        }
    ),
    "longrope": frozenset(
        {
            *("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
            *("short_mscale", "long_mscale"),
        }
    ),
}
COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


def base_of(config: ModelConfig) -> float:
    """The `rope_theta` to state: ntk is said by it alone."""
    scale = config.rotary_scale
    if scale is None or scale.kind != "ntk":
        return config.rotary_base
    return scaled_base(config.rotary_base, config.rotary_width, scale.factor)


def is_scaled(config: ModelConfig) -> bool:
    """Whether there is something to state beside the base."""
    return config.rotary_factors is not None or (config.rotary_scale is not None and config.rotary_scale.kind != "ntk")


def stated(config: ModelConfig, max_position: int) -> dict[str, Any]:
    """The fields of `rope_parameters` beside the base and the rotated share of a head."""
    scale = config.rotary_scale
    if config.rotary_factors is not None:
        return longrope(config, config.rotary_factors, max_position)
    if scale is None or scale.kind == "ntk":
        return {"rope_type": "default"}
    if scale.kind == "linear":
        return {"rope_type": "linear", "factor": scale.factor}
    said = {
        "rope_type": "yarn",
        "factor": scale.factor,
        "original_max_position_embeddings": scale.original_tokens,
        "attention_factor": scale.cos_and_sin_by,
        "beta_fast": scale.beta_fast,
        "beta_slow": scale.beta_slow,
        "truncate": scale.truncate,
    }
    return {field: value for field, value in said.items() if value is not None}


def longrope(config: ModelConfig, divisors: list[float], max_position: int) -> dict[str, Any]:
    """Frequencies one by one, the same for short texts and long ones, with the attention factor of `config`."""
    scale = config.rotary_scale
    original = scale.original_tokens if scale else None
    return {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "factor": scale.factor if scale else 1.0,
        "attention_factor": scale.cos_and_sin_by if scale else 1.0,
        "original_max_position_embeddings": original or max_position,
    }


def scaled_in(nested: Mapping[str, Any], max_position: int, where: str) -> dict[str, Any]:
    """Our `rotary_factors` and `rotary_scale`, from every one of `nested` that states something.

    `UserError` where one is no object, cannot be ours (`understood`), or is not what another states.
    """
    found: dict[str, dict[str, Any]] = {}
    for field, parameters in nested.items():
        if not isinstance(parameters, dict):
            raise UserError(f"{where}: {field} is no object")
        if parameters:
            found[field] = understood(parameters, field, max_position, where)
    first, *others = found.values() or [{}]
    if any(other != first for other in others):
        raise UserError(
            f"{where}: how frequencies change for longer texts is stated twice, and differs: {', '.join(found)}. Which "
            "one counts depends on the reader"
        )
    return first


def understood(parameters: Mapping[str, Any], field: str, max_position: int, where: str) -> dict[str, Any]:
    """Our `rotary_factors` and `rotary_scale`, as far as `parameters` state them.

    Args:
        parameters: What the config holds at `field`.
        max_position: Its `max_position_embeddings`, which is the original length where none is stated.

    Raises:
        UserError: A kind, or a field of it, that is not known here, or that this model cannot be.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("type", kind) != kind:
        raise UserError(f"{where}: {field}: rope_type is {kind!r} and type {parameters['type']!r}: leave one out")
    if kind == "dynamic":
        raise UserError(
            f"{where}: {field} is of the type 'dynamic': its frequencies change with the length of a text, and this "
            "model has one set. Choose a length and state the base that it gives as rope_theta"
        )
    if kind not in FIELDS:
        raise UserError(f"{where}: {field} is of the type {kind!r}, known are {', '.join(FIELDS)}")
    if unknown := sorted(set(parameters) - COMMON - FIELDS[kind]):
        raise UserError(f"{where}: {field}.{unknown[0]}: not known here, and may change what the model computes")
    if kind == "default":
        return {}
    values = {name: parameters[name] for name in FIELDS[kind] if parameters.get(name) is not None}
    try:
        return _BY_KIND[kind](values, max_position, f"{where}: {field}")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{where}: {field}: a value is not a number ({error})") from None
    except KeyError as error:
        raise UserError(f"{where}: {field}: {error.args[0]} is missing, {kind} needs it") from None


def _linear(values: Mapping[str, Any], max_position: int, where: str) -> dict[str, Any]:
    return {"rotary_scale": {"kind": "linear", "factor": float(values["factor"])}}


def _yarn(values: Mapping[str, Any], max_position: int, where: str) -> dict[str, Any]:
    original = int(values.get("original_max_position_embeddings", max_position))
    factor = float(values.get("factor", max_position / original))
    scale: dict[str, Any] = {"kind": "yarn", "factor": factor, "original_tokens": original}
    scale |= {name: float(values[name]) for name in ("beta_fast", "beta_slow") if values.get(name)}
    if "truncate" in values:
        scale["truncate"] = values["truncate"]
    # DeepSeek's two, of which the quotient counts, and only where nothing else is stated
    over, under = float(values.get("mscale", 0)), float(values.get("mscale_all_dim", 0))
    own = _of_log(factor, 1.0)
    attention = values.get(
        "attention_factor", _of_log(factor, over) / _of_log(factor, under) if over and under else own
    )
    return {"rotary_scale": scale | _attention(float(attention), own)}


def _of_log(factor: float, times: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * times * math.log(factor) + 1.0


def _longrope(values: Mapping[str, Any], max_position: int, where: str) -> dict[str, Any]:
    short, long = ([float(value) for value in values[name]] for name in ("short_factor", "long_factor"))
    if short != long:
        raise UserError(
            f"{where}: short_factor and long_factor differ: the frequencies change with the length of a text, and this "
            "model has one set. State the list that counts as both"
        )
    original = int(values.get("original_max_position_embeddings", max_position))
    factor = float(values.get("factor", max_position / original))
    own = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    attention = float(values.get("attention_factor", own))
    for name in ("short_mscale", "long_mscale"):
        if not math.isclose(float(values.get(name, attention)), attention, rel_tol=1e-6):
            raise UserError(
                f"{where}: {name} is {values[name]}, which vLLM heeds, and by the other fields the attention factor is "
                f"{attention:g}, which transformers heeds: which model it is depends on the reader"
            )
    found: dict[str, Any] = {"rotary_factors": long}
    if factor > 1 or attention != 1:
        scale = {"kind": "longrope", "factor": max(factor, 1.0), "original_tokens": original}
        found["rotary_scale"] = scale | _attention(attention, own)
    return found


def _attention(stated: float, own: float) -> dict[str, float]:
    return {} if math.isclose(stated, own, rel_tol=1e-12) else {"attention_factor": stated}


_BY_KIND = {"linear": _linear, "yarn": _yarn, "longrope": _longrope}


def divisors_of(wanted: Tensor, base: float, width: int) -> list[float]:
    """What divides base^(-2i / width), i from 0, so that it becomes `wanted`, float32: to the last bit, wherever a
    float32 does it, as readers compute it in float32 from float32."""
    waves = base ** (torch.arange(0, 2 * len(wanted), 2, dtype=torch.float32) / width)
    middle = (1.0 / (wanted.double() * waves.double())).float()
    candidates = [middle]
    for towards in (0.0, math.inf):
        step = middle
        for _ in range(2):
            step = torch.nextafter(step, torch.full_like(step, towards))
            candidates.append(step)
    tried = torch.stack(candidates)
    errors = (1.0 / (tried * waves) - wanted).abs()
    best = errors.argmin(0)  # of equals the first, which is the nearest
    return [float(value) for value in tried.gather(0, best[None])[0]]
