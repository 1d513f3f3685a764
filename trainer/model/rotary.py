"""Rotary positions (arXiv 2104.09864): pairs of features of a head turn by the token's angle, one frequency a pair.

Frequencies and their scaling are those of `transformers` 5.23 (modeling_rope_utils.py), operation by operation in
float32: an angle is a frequency times a position, so a last digit of a frequency would show at long texts.
"""

import math

import torch
from torch import Tensor

from .config import ModelConfig
from .rotary_scale import RotaryScale


def rotary_angles(positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """(cos, sin) of the rotary angles, each (batch, tokens, 1, rotary_width / 2) in float32, times the attention
    factor. positions: (batch, tokens), of a token in its document."""
    angles = positions[..., None].float() * frequencies(config, positions.device)
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    scale = config.rotary_scale
    if scale is None or scale.cos_and_sin_by == 1:
        return cos, sin
    return cos * scale.cos_and_sin_by, sin * scale.cos_and_sin_by


def frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """By how many radians each pair turns a token; (rotary_width / 2,) in float32."""
    width, base, scale = config.rotary_width, config.rotary_base, config.rotary_scale
    if scale is not None and scale.kind == "ntk":
        base = scaled_base(base, width, scale.factor)
    powers = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    wavelengths = base**powers  # over 2 pi, in tokens
    if config.rotary_factors is not None:
        return 1.0 / (torch.tensor(config.rotary_factors, dtype=torch.float32, device=device) * wavelengths)
    if scale is None or scale.factor == 1:
        return 1.0 / wavelengths
    if scale.kind == "linear":
        return (1.0 / wavelengths) / scale.factor
    if scale.kind == "yarn":
        kept = _kept(scale, width, base, device)
        return 1.0 / (scale.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept
    return 1.0 / wavelengths


def scaled_base(base: float, width: int, factor: float) -> float:
    """The base with which the lowest of `width / 2` frequencies is divided by `factor` and the highest is kept."""
    return float(base * factor ** (width / (width - 2)))


def _kept(scale: RotaryScale, width: int, base: float, device: torch.device | None) -> Tensor:
    """How much of each frequency yarn keeps: 1 where it turns often in the original length, 0 where it does not."""
    original = scale.original_tokens
    assert original is not None

    def pair_that_turns(times: float) -> float:
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(scale.fast), pair_that_turns(scale.slow)
    if scale.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(width // 2, dtype=torch.float32, device=device) - low) / (high - low)
    return 1 - ramp.clamp(0, 1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first features of each head by the token's angle; x: (batch, tokens, heads, head_dim).

    Feature i goes with feature i + half the rotary width (not with its neighbour): as the Bamba weights were trained.
    """
    half = cos.shape[-1]
    if not half:  # no position counts
        return x
    first, second, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([turned.to(x.dtype), rest], dim=-1)
