"""The tensors that the kernels speak of, named once.

Letters, in all files of this folder: b a sequence of the batch, c a chunk of it, i and j tokens (i reads, j was
written before), h a head, p a channel of a head, n a number of the state; N, P, H and Q (tokens of a chunk) are their
counts, as in the Mamba-2 paper (Dao and Gu, arXiv 2405.21060).

A token's row of the packed projection is `z | x | B | C | dt`: gate and input (heads x head_dim each), the two
projections of the state (groups x state each: the heads of a group share them), and the step (one number a head).
`x | B | C` pass through the convolution together.

`documents` (int32, batch x tokens) numbers the documents of a row from left to right: ids ascend, none returns.

A row may go on from another: `Carried` is what passes from one to the next. Of a bundle (heads that one program sums
over) is only spoken where kernels are launched.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

STATE_TOKENS = 128  # tokens from one state that the backward needs to the next: fewer would be more states to read


class Carried(NamedTuple):
    """What a row hands on to the row that goes on with it; made by `ops.mix_carried`, and taken by it.

    state: (batch, heads, head_dim, state), float32 at least: of the scan, after the last token.
    halo: (batch, 3, channels): x | B | C of the last three tokens before the convolution, in the dtype of the row.
    documents: (batch, 3) int32: of the halo's tokens, -1 where there was none; the last is also the state's. Only
        tokens of the same document receive anything.
    """

    state: Tensor
    halo: Tensor
    documents: Tensor


class MixInputs(NamedTuple):
    """What the block op `mix` reads, in the order of its schema; shapes and dtypes: `ops.mix`, `Carried`."""

    zxbcdt: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    norm_weight: Tensor
    documents: Tensor
    state_in: Tensor | None = None
    halo_in: Tensor | None = None
    documents_in: Tensor | None = None
    groups: int = 1
    norm_groups: int = 1
    dt_min: float = 0.0
    dt_max: float = math.inf

    @property
    def inner(self) -> int:
        """heads * head_dim, the width of z and of x."""
        return self.norm_weight.shape[0]

    @property
    def heads(self) -> int:
        return self.A_log.shape[0]

    @property
    def channels(self) -> int:
        """x | B | C, which pass through the convolution."""
        return self.conv_bias.shape[0]

    @property
    def head_dim(self) -> int:
        return self.inner // self.heads

    @property
    def state(self) -> int:
        """Numbers that a channel of a head remembers."""
        return (self.channels - self.inner) // (2 * self.groups)

    @property
    def entering(self) -> Carried | None:
        if self.state_in is None or self.halo_in is None or self.documents_in is None:
            return None
        return Carried(self.state_in, self.halo_in, self.documents_in)


#: Of the tensors that every call has; all but the last have a gradient.
MIX_TENSORS = MixInputs._fields[:8]


class ScanInputs(NamedTuple):
    """What the scan reads, in the order of its schema.

    x: (batch, tokens, heads, head_dim); dt, before bias and softplus: (batch, tokens, heads); B, C: (batch, tokens,
    groups, state); A_log, D, dt_bias: (heads,); documents: (batch, tokens); state_in: None or a state that enters, see
    `Carried`; document_in: (batch,) int32, of whom that state is; dt_min, dt_max: between them dt is brought behind its
    softplus.
    """

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    documents: Tensor
    state_in: Tensor | None = None
    document_in: Tensor | None = None
    dt_min: float = 0.0
    dt_max: float = math.inf

    @property
    def raw_limits(self) -> tuple[float, float] | None:
        """The limits of dt before its softplus, as the kernels want them; None where nothing is limited."""
        if self.dt_min <= 0 and math.isinf(self.dt_max):
            return None
        return inverse_softplus(self.dt_min), inverse_softplus(self.dt_max)

    @property
    def group_heads(self) -> int:
        """Heads that share a B and a C."""
        return self.x.shape[2] // self.B.shape[2]


SCAN_TENSORS = ScanInputs._fields[:8]


class ScanGrads(NamedTuple):
    """The places for the gradients of the scan's large inputs; the backward writes them."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor


#: The gradient of the state after the last token: there, none, or still to arrive, when it is called for as late as
#: possible.
GradLast = Tensor | Callable[[], Tensor | None] | None


def arrived(grad_last: GradLast) -> Tensor | None:
    """The gradient itself."""
    return grad_last() if callable(grad_last) else grad_last


def inverse_softplus(step: float) -> float:
    """What has `step` for its softplus; minus infinity of 0."""
    if step <= 0:
        return -math.inf
    return step if math.isinf(step) else step + math.log(-math.expm1(-step))


def wide_dtype(of: Tensor) -> torch.dtype:
    """Of sums, decays and states: float32, or float64 where the input is."""
    return torch.float64 if of.dtype == torch.float64 else torch.float32


def border_state(x: Tensor, state: int, *, wanted: bool = True) -> Tensor:
    """Room for a state at a row's border: (batch, heads, head_dim, state); empty unless `wanted`."""
    batch, _, heads, width = x.shape
    return x.new_empty((batch, heads, width, state) if wanted else (0,), dtype=wide_dtype(x))


def kept_states(x: Tensor, state: int, *, keep: bool) -> Tensor:
    """Room for the states that each stretch of STATE_TOKENS meets, as the backward wants them: (batch, stretches,
    heads, state, head_dim) in the dtype of x; empty unless `keep`."""
    batch, tokens, heads, width = x.shape
    return x.new_empty((batch, -(-tokens // STATE_TOKENS), heads, state, width) if keep else (0,))


class Packed(NamedTuple):
    """The columns of the packed projection, as views."""

    z: Tensor
    xbc: Tensor
    dt: Tensor


def unpack(zxbcdt: Tensor, inner: int, heads: int) -> Packed:
    """The views z, x|B|C and dt of a packed projection whose gate is `inner` wide."""
    channels = zxbcdt.shape[-1] - inner - heads
    return Packed(
        zxbcdt.narrow(-1, 0, inner), zxbcdt.narrow(-1, inner, channels), zxbcdt.narrow(-1, inner + channels, heads)
    )


def split_conv(xbc: Tensor, inner: int, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """The views x (by head), B and C (by group) of the channels that the convolution handles."""
    *rows, channels = xbc.shape
    both = (channels - inner) // 2
    size = both // groups
    return (
        xbc.narrow(-1, 0, inner).view(*rows, heads, inner // heads),
        xbc.narrow(-1, inner, both).view(*rows, groups, size),
        xbc.narrow(-1, inner + both, both).view(*rows, groups, size),
    )
