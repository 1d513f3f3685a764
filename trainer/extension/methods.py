"""How frequencies may be changed for texts of `to` tokens, each as the model config that it makes."""

import math
from dataclasses import dataclass

from ..model.config import ModelConfig
from ..model.rotary import frequencies
from ..model.rotary_scale import RotaryScale
from .search import Factors


@dataclass(frozen=True, slots=True)
class Target:
    """From texts of `own` tokens, which the model was trained on, to `to`, which is more."""

    own: int
    to: int

    @property
    def factor(self) -> float:
        return self.to / self.own


def known_methods(config: ModelConfig, target: Target) -> dict[str, ModelConfig]:
    """{name: config}: unscaled, PI, NTK where more than one pair rotates, YaRN."""
    scales = {
        "unscaled": None,
        "PI": RotaryScale(kind="linear", factor=target.factor),
        "NTK": RotaryScale(kind="ntk", factor=target.factor),
        "YaRN": RotaryScale(kind="yarn", factor=target.factor, original_tokens=target.own),
    }
    if config.rotary_width == 2:
        del scales["NTK"]
    return {name: config.model_copy(update={"rotary_scale": scale}) for name, scale in scales.items()}


def searched(config: ModelConfig, target: Target, factors: Factors, attention: float | None = None) -> ModelConfig:
    """With a factor a pair, and an attention factor; LongRoPE's own without one."""
    scale = RotaryScale(kind="longrope", factor=target.factor, original_tokens=target.own, attention_factor=attention)
    changed = {**config.model_dump(), "rotary_factors": list(factors), "rotary_scale": scale.model_dump()}
    return ModelConfig.model_validate(changed)


def factors_of(config: ModelConfig) -> Factors:
    """By what each frequency of an unscaled model is divided to become that of `config`."""
    plain = config.model_copy(update={"rotary_scale": None, "rotary_factors": None})
    return tuple((frequencies(plain).double() / frequencies(config).double()).tolist())


def first_slow_pair(config: ModelConfig, own: int) -> int:
    """The first pair whose wavelength is longer than `own` tokens, so that no text of training turned it all round;
    their number where there is none."""
    plain = config.model_copy(update={"rotary_scale": None, "rotary_factors": None})
    slow = (2 * math.pi / frequencies(plain) > own).tolist()
    return slow.index(True) if True in slow else len(slow)


def seeds(config: ModelConfig, target: Target) -> list[Factors]:
    """Where the search begins: each method as it is, and with the fast pairs left alone."""
    first = first_slow_pair(config, target.own)
    whole = [factors_of(one) for one in known_methods(config, target).values()]
    slow = [(*[1.0] * first, *factors[first:]) for factors in whole]
    return list(dict.fromkeys([*whole, *slow]))
