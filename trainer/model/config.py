"""The shape of a Bamba model: what its state dict looks like, how many parameters it has, what a token costs.

Only what changes the function or the parameters stands here; how fast it runs is the recipe's matter.
"""

import math
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from bamba_data.sources.base import Strict

from ..kernels.supported import CONV_WIDTH, unsupported
from .rotary_scale import RotaryScale

LayerKind = Literal["mamba", "attention", "mlp"]


class LayerParts(NamedTuple):
    """What a layer adds to the residual stream, one after the other: of its mixer, if it has one, then of its MLP."""

    mixer: Literal["mamba", "attention"] | None
    mlp: bool


class ModelConfig(Strict):
    """Sizes are in numbers of features, heads or layers.

    Layers are of two structures. In Bamba's each holds a mixer and an MLP: the mixer is attention in the
    `attention_layers`, counted from 0 (`all` makes a plain transformer), and Mamba2 in the others. With `layer_kinds`
    each is one of the three, `mamba`, `attention` or `mlp`, in the order of the list (as Nemotron-H has them, and
    models of Mamba2 alone). `layer_parts` says of either what a layer is made of.

    The heads of attention have hidden_size / attention_heads features unless `attention_head_dim` says otherwise. An
    MLP is gated (`swiglu`) or squares what is above zero (`relu2`). The Mamba2 inner width is `mamba_heads *
    mamba_head_dim`. The heads of each of its `mamba_groups` share one B and C; its norm is taken over each of
    `mamba_norm_groups` equal parts of that width. Other libraries have one number for both. A time step, behind its
    softplus, is brought between `mamba_dt_min` and `mamba_dt_max`, as mamba_ssm's `dt_limit` does. A `rotary_fraction`
    of 0 is attention without positions.

    The frequencies of the rotary embedding are base^(-2i / rotary_width), changed by `rotary_scale`; or each divided by
    its own one of `rotary_factors`, the highest first, which a search for longer texts may give (rotary_scale.py)."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            *("rotary_factors", "rotary_scale", "mamba_groups", "mamba_norm_groups", "layer_kinds", "mlp_kind"),
            *("attention_head_dim", "mamba_dt_min", "mamba_dt_max"),
        }
    )

    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=8)
    mlp_size: int = Field(ge=0)
    mlp_kind: Literal["swiglu", "relu2"] = "swiglu"
    layers: int = Field(ge=1)
    attention_layers: list[int] | Literal["all"] = Field(default_factory=list)
    layer_kinds: list[LayerKind] | None = None
    attention_heads: int = Field(ge=1)
    attention_head_dim: int | None = Field(default=None, ge=1)
    kv_heads: int = Field(ge=1)
    rotary_fraction: float = Field(default=0.5, ge=0, le=1)
    rotary_base: float = Field(default=10_000.0, gt=1)
    rotary_factors: list[float] | None = None
    rotary_scale: RotaryScale | None = None
    mamba_heads: int = Field(ge=1)
    mamba_head_dim: int = Field(default=64, ge=1)
    mamba_state: int = Field(default=128, ge=1)
    mamba_groups: int = Field(default=1, ge=1)
    mamba_norm_groups: int = Field(default=1, ge=1)
    mamba_dt_min: float = Field(default=0.0, ge=0)
    mamba_dt_max: float | None = Field(default=None, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        self._check_layers()
        if self.hidden_size % self.attention_heads and self.attention_head_dim is None:
            raise ValueError(f"attention_heads: {self.attention_heads} do not divide hidden_size {self.hidden_size}")
        if self.attention_heads % self.kv_heads:
            raise ValueError(f"kv_heads: {self.kv_heads} do not divide attention_heads {self.attention_heads}")
        if self.rotary_fraction and (self.rotary_width % 2 or not self.rotary_width):
            raise ValueError(
                f"rotary_fraction: it rotates {self.rotary_width} features of a head, an even number above 0 is needed"
            )
        self._check_scale()
        if self.mamba_indices and (why := unsupported(self.mamba_head_dim, self.mamba_state, self.mamba_heads)):
            raise ValueError(f"mamba_head_dim, mamba_state, mamba_heads: {why}")
        if self.mamba_heads % self.mamba_groups:
            raise ValueError(f"mamba_groups: {self.mamba_groups} do not divide mamba_heads {self.mamba_heads}")
        if self.inner_size % self.mamba_norm_groups:
            raise ValueError(
                f"mamba_norm_groups: {self.mamba_norm_groups} do not divide mamba_heads * mamba_head_dim "
                f"{self.inner_size}"
            )
        if self.mamba_dt_max is not None and self.mamba_dt_max < self.mamba_dt_min:
            raise ValueError(f"mamba_dt_max: {self.mamba_dt_max:g} is below mamba_dt_min {self.mamba_dt_min:g}")
        return self

    def _check_layers(self) -> None:
        if self.layer_kinds is not None:
            if self.attention_layers:
                raise ValueError("layer_kinds: each says of its layer what it is, attention_layers too: leave one out")
            if len(self.layer_kinds) != self.layers:
                raise ValueError(f"layer_kinds: {len(self.layer_kinds)} of them, layers is {self.layers}")
        named = [] if self.attention_layers == "all" else self.attention_layers
        if beyond := [layer for layer in named if not 0 <= layer < self.layers]:
            raise ValueError(f"attention_layers: {beyond} are not among the layers 0 to {self.layers - 1}")
        if self.mlp_indices and self.mlp_size < 8:
            raise ValueError(f"mlp_size: {self.mlp_size}, and {len(self.mlp_indices)} layers have an MLP: 8 at least")
        if self.layer_kinds is None and self.inner_size % self.hidden_size:
            raise ValueError(f"mamba_heads * mamba_head_dim: {self.inner_size} is no multiple of {self.hidden_size}")

    def _check_scale(self) -> None:
        if not self.rotary_fraction and (self.rotary_factors is not None or self.rotary_scale is not None):
            raise ValueError("rotary_fraction: 0 is attention without positions; leave rotary_factors and _scale out")
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
    def layer_parts(self) -> list[LayerParts]:
        """Of each layer what it is made of."""
        if self.layer_kinds is not None:
            return [
                LayerParts(None, mlp=True) if kind == "mlp" else LayerParts(kind, mlp=False)
                for kind in self.layer_kinds
            ]
        attend = range(self.layers) if self.attention_layers == "all" else set(self.attention_layers)
        return [LayerParts("attention" if layer in attend else "mamba", mlp=True) for layer in range(self.layers)]

    def _indices(self, mixer: str) -> list[int]:
        return [layer for layer, parts in enumerate(self.layer_parts) if parts.mixer == mixer]

    @property
    def attention_indices(self) -> list[int]:
        """The layers that attend, from 0."""
        return self._indices("attention")

    @property
    def mamba_indices(self) -> list[int]:
        """The layers that have a Mamba2 mixer."""
        return self._indices("mamba")

    @property
    def mlp_indices(self) -> list[int]:
        """The layers that have an MLP."""
        return [layer for layer, parts in enumerate(self.layer_parts) if parts.mlp]

    @property
    def branches(self) -> int:
        """How often something is added to the residual stream, each time behind a norm of its own."""
        return sum((parts.mixer is not None) + parts.mlp for parts in self.layer_parts)

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.attention_head_dim or self.hidden_size // self.attention_heads

    @property
    def attention_size(self) -> int:
        """Features of all heads of queries, which is hidden_size unless heads have a width of their own."""
        return self.attention_heads * self.head_dim

    @property
    def mlp_matrices(self) -> int:
        """Linears of one MLP, each hidden_size * mlp_size large: gate, up and down, or two without a gate."""
        return 3 if self.mlp_kind == "swiglu" else 2

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
        attention = 2 * self.hidden_size * (self.attention_size + self.kv_heads * self.head_dim)
        return (
            len(self.mamba_indices) * mamba
            + len(self.attention_indices) * attention
            + len(self.mlp_indices) * self.mlp_matrices * self.hidden_size * self.mlp_size
            + self.vocab_size * self.hidden_size
        )

    @property
    def parameters(self) -> int:
        """All of them."""
        small = self.conv_channels * (CONV_WIDTH + 1) + 3 * self.mamba_heads + self.inner_size
        return (
            self.matmul_parameters
            + self.vocab_size * self.hidden_size
            + len(self.mamba_indices) * small
            + (self.branches + 1) * self.hidden_size
        )

    def flops_per_token(self, row_tokens: int) -> float:
        """Of forward and backward, by the fixed rule for MFU: 6 a matmul weight, causal attention over the row, and the
        scan by its definition (15 a state element). 56.28 GFLOP for Bamba-9B at 4,096 tokens."""
        attention = 3 * len(self.attention_indices) * 2 * 2 * self.attention_size * row_tokens / 2
        scan = 3 * len(self.mamba_indices) * 5 * self.inner_size * self.mamba_state
        return 6.0 * self.matmul_parameters + attention + scan
