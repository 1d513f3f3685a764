"""The shape of a Bamba model: what its state dict looks like, how many parameters it has, what a token costs.

Only what changes the function or the parameters stands here; how fast it runs is the recipe's matter.
"""

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from bamba_data.sources.base import Strict

from ..kernels.supported import CONV_WIDTH, unsupported
from .rotary_scale import RotaryScale


class ModelConfig(Strict):
    """Sizes are in numbers of features, heads or layers. `attention_layers` counts layers from 0; `all` makes a plain
    transformer. The Mamba2 inner width is `mamba_heads * mamba_head_dim`. The heads of each of its `mamba_groups`
    share one B and C; its norm is taken over each of `mamba_norm_groups` equal parts of that width. Other libraries
    have one number for both.

    The frequencies of the rotary embedding are base^(-2i / rotary_width), changed by `rotary_scale`; or each divided by
    its own one of `rotary_factors`, the highest first, which a search for longer texts may give (rotary_scale.py)."""

    later: ClassVar[frozenset[str]] = frozenset({"rotary_factors", "rotary_scale", "mamba_groups", "mamba_norm_groups"})

    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=8)
    mlp_size: int = Field(ge=8)
    layers: int = Field(ge=1)
    attention_layers: list[int] | Literal["all"] = Field(default_factory=list)
    attention_heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    rotary_fraction: float = Field(default=0.5, gt=0, le=1)
    rotary_base: float = Field(default=10_000.0, gt=1)
    rotary_factors: list[float] | None = None
    rotary_scale: RotaryScale | None = None
    mamba_heads: int = Field(ge=1)
    mamba_head_dim: int = Field(default=64, ge=1)
    mamba_state: int = Field(default=128, ge=1)
    mamba_groups: int = Field(default=1, ge=1)
    mamba_norm_groups: int = Field(default=1, ge=1)
    norm_eps: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        if self.hidden_size % self.attention_heads:
            raise ValueError(f"attention_heads: {self.attention_heads} do not divide hidden_size {self.hidden_size}")
        if self.attention_heads % self.kv_heads:
            raise ValueError(f"kv_heads: {self.kv_heads} do not divide attention_heads {self.attention_heads}")
        if self.rotary_width % 2 or not self.rotary_width:
            raise ValueError(
                f"rotary_fraction: it rotates {self.rotary_width} features of a head, an even number above 0 is needed"
            )
        self._check_scale()
        if beyond := [layer for layer in self.attention_indices if not 0 <= layer < self.layers]:
            raise ValueError(f"attention_layers: {beyond} are not among the layers 0 to {self.layers - 1}")
        mamba_layers = self.layers - len(self.attention_indices)
        if mamba_layers and (why := unsupported(self.mamba_head_dim, self.mamba_state, self.mamba_heads)):
            raise ValueError(f"mamba_head_dim, mamba_state, mamba_heads: {why}")
        if self.mamba_heads % self.mamba_groups:
            raise ValueError(f"mamba_groups: {self.mamba_groups} do not divide mamba_heads {self.mamba_heads}")
        if self.inner_size % self.mamba_norm_groups:
            raise ValueError(
                f"mamba_norm_groups: {self.mamba_norm_groups} do not divide mamba_heads * mamba_head_dim "
                f"{self.inner_size}"
            )
        if self.inner_size % self.hidden_size:
            raise ValueError(f"mamba_heads * mamba_head_dim: {self.inner_size} is no multiple of {self.hidden_size}")
        return self

    def _check_scale(self) -> None:
        factors, kind = self.rotary_factors, self.rotary_scale.kind if self.rotary_scale else None
        if kind == "longrope" and factors is None:
            raise ValueError("rotary_factors: rotary_scale.kind longrope needs them, one a pair of rotated features")
        if factors is not None and kind not in ("longrope", None):
            raise ValueError(f"rotary_factors: rotary_scale.kind {kind} makes its own; they go with longrope, or alone")
        if factors is not None and len(factors) != self.rotary_width // 2:
            raise ValueError(
                f"rotary_factors: {len(factors)} of them, and {self.rotary_width // 2} pairs of features are rotated"
            )
        if factors is not None and not all(0 < factor < math.inf for factor in factors):
            raise ValueError("rotary_factors: one is not above 0")
        if kind == "ntk" and self.rotary_width == 2:
            raise ValueError("rotary_scale.kind ntk: one pair of features is rotated, ntk needs two; take linear")

    @property
    def attention_indices(self) -> list[int]:
        return list(range(self.layers)) if self.attention_layers == "all" else sorted(set(self.attention_layers))

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.attention_heads

    @property
    def rotary_width(self) -> int:
        """How many features of an attention head are rotated."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def inner_size(self) -> int:
        """The width of a Mamba2 block between its two linears."""
        return self.mamba_heads * self.mamba_head_dim

    @property
    def conv_channels(self) -> int:
        """x, and B and C of each group, which pass through the convolution together."""
        return self.inner_size + 2 * self.mamba_groups * self.mamba_state

    @property
    def matmul_parameters(self) -> int:
        """The weights that every token is multiplied by: all linears, and the head; not the embedding's lookup."""
        mamba = self.hidden_size * (self.inner_size + self.conv_channels + self.mamba_heads + self.inner_size)
        attention = 2 * self.hidden_size * (self.hidden_size + self.kv_heads * self.head_dim)
        attentions = len(self.attention_indices)
        return (
            (self.layers - attentions) * mamba
            + attentions * attention
            + self.layers * 3 * self.hidden_size * self.mlp_size
            + self.vocab_size * self.hidden_size
        )

    @property
    def parameters(self) -> int:
        """All of them."""
        small = self.conv_channels * (CONV_WIDTH + 1) + 3 * self.mamba_heads + self.inner_size
        return (
            self.matmul_parameters
            + self.vocab_size * self.hidden_size
            + (self.layers - len(self.attention_indices)) * small
            + (2 * self.layers + 1) * self.hidden_size
        )

    def flops_per_token(self, row_tokens: int) -> float:
        """Of forward and backward, by the fixed rule for MFU: 6 a matmul weight, causal attention over the row, and the
        scan by its definition (15 a state element). 56.28 GFLOP for Bamba-9B at 4,096 tokens."""
        attentions = len(self.attention_indices)
        attention = 3 * attentions * 2 * 2 * self.hidden_size * row_tokens / 2
        scan = 3 * (self.layers - attentions) * 5 * self.inner_size * self.mamba_state
        return 6.0 * self.matmul_parameters + attention + scan
