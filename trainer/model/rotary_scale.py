"""How the frequencies of a rotary embedding are changed for texts longer than a model was first trained on: as values.

What the values do to frequencies and angles is rotary.py's. Every method gives one set of frequencies, the same for
short texts and long ones: what a token sees never depends on how long its text will become.
"""

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from bamba_data.sources.base import Strict


class RotaryScale(Strict):
    """`factor` says for how many times longer texts. `kind` is the method:

    linear    every frequency is divided by `factor` (arXiv 2306.15595)
    ntk       the base grows, so that the lowest frequency is divided by `factor` and the highest is kept
    yarn      frequencies that turn `beta_fast` times and more in `original_tokens` are kept, those that turn
              `beta_slow` times and less are divided, between them a ramp, whose ends are whole pairs unless `truncate`
              is off (arXiv 2309.00071)
    longrope  each is divided by its own one of `rotary_factors`, found by a search (arXiv 2402.13753)

    `attention_factor` multiplies cosines and sines, so the products of rotated features by its square; without it the
    method's own is taken, which is 1 for linear and ntk. `original_tokens` is the length before: yarn and longrope need
    it.
    """

    kind: Literal["linear", "ntk", "yarn", "longrope"]
    factor: float = Field(ge=1)
    original_tokens: int | None = Field(default=None, ge=2)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    truncate: bool | None = None

    #: By kind, what it must be told and what it may be told beside.
    needs: ClassVar[dict[str, frozenset[str]]] = {
        "yarn": frozenset({"original_tokens"}),
        "longrope": frozenset({"original_tokens"}),
    }
    takes: ClassVar[dict[str, frozenset[str]]] = {
        "yarn": frozenset({"attention_factor", "beta_fast", "beta_slow", "truncate"}),
        "longrope": frozenset({"attention_factor"}),
    }

    @model_validator(mode="after")
    def _belongs(self) -> "RotaryScale":
        choices = set(RotaryScale.model_fields) - {"kind", "factor"}
        stated = {name for name in choices if getattr(self, name) is not None}
        needs, takes = (table.get(self.kind, frozenset()) for table in (self.needs, self.takes))
        if missing := sorted(needs - stated):
            raise ValueError(f"{missing[0]}: {self.kind} needs it")
        if useless := sorted(stated - needs - takes):
            raise ValueError(f"{useless[0]}: {self.kind} has no use for it; leave it out, or choose another kind")
        if self.kind == "yarn" and self.fast <= self.slow:
            raise ValueError(f"beta_fast: {self.fast:g} is not above beta_slow {self.slow:g}")
        return self

    @property
    def fast(self) -> float:
        """Turns in `original_tokens` from which on yarn keeps a frequency."""
        return 32.0 if self.beta_fast is None else self.beta_fast

    @property
    def slow(self) -> float:
        """Turns in `original_tokens` up to which yarn divides a frequency."""
        return 1.0 if self.beta_slow is None else self.beta_slow

    @property
    def own_attention_factor(self) -> float:
        """The method's own: of yarn 0.1 ln(factor) + 1, of longrope the square root of
        1 + ln(factor) / ln(original_tokens); the others have 1."""
        if self.factor <= 1 or self.original_tokens is None:
            return 1.0
        if self.kind == "yarn":
            return 0.1 * math.log(self.factor) + 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_tokens))

    @property
    def cos_and_sin_by(self) -> float:
        """What cosines and sines are multiplied by."""
        return self.own_attention_factor if self.attention_factor is None else self.attention_factor
