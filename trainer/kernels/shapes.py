"""The tensors that the kernels speak of, named once.

Letters, in all files of this folder: b a sequence of the batch, c a chunk of it, i and j tokens (i reads, j was
written before), h a head, p a channel of a head, n a number of the state; N, P, H and Q (tokens of a chunk) are their
counts, as in the Mamba-2 paper (Dao and Gu, arXiv 2405.21060).

A token's row of the packed projection is `z | x | B | C | dt`: gate and input (heads x head_dim each), the two
projections of the state (state each, one group for all heads), and the step (one number a head). `x | B | C` pass
through the convolution together.

`documents` (int32, batch x tokens) numbers the documents of a row from left to right: ids ascend, none returns.
"""

from typing import NamedTuple

from torch import Tensor

STATE_TOKENS = 128  # tokens from one state that the backward needs to the next: fewer would be more states to read


class MixInputs(NamedTuple):
    """What the block op `mix` reads, in the order of its schema; shapes and dtypes: `ops.mix`."""

    zxbcdt: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    norm_weight: Tensor
    documents: Tensor

    @property
    def inner(self) -> int:
        """heads * head_dim, the width of z and of x."""
        return len(self.norm_weight)

    @property
    def heads(self) -> int:
        return len(self.A_log)

    @property
    def channels(self) -> int:
        """x | B | C, which pass through the convolution."""
        return len(self.conv_bias)

    @property
    def head_dim(self) -> int:
        return self.inner // self.heads

    @property
    def state(self) -> int:
        """Numbers that a channel of a head remembers."""
        return (self.channels - self.inner) // 2


class ScanInputs(NamedTuple):
    """What the scan reads, in the order of its schema.

    x: (batch, tokens, heads, head_dim); dt, before bias and softplus: (batch, tokens, heads); B, C: (batch, tokens,
    state); A_log, D, dt_bias: (heads,); documents: (batch, tokens).
    """

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    documents: Tensor


class ScanGrads(NamedTuple):
    """The places for the gradients of the scan's large inputs; the backward writes them."""

    x: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor


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
    width = zxbcdt.shape[-1]
    return Packed(zxbcdt[..., :inner], zxbcdt[..., inner : width - heads], zxbcdt[..., width - heads :])


def split_conv(xbc: Tensor, inner: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The views x (by head), B and C of the channels that the convolution handles."""
    state = (xbc.shape[-1] - inner) // 2
    x = xbc[..., :inner].unflatten(-1, (heads, inner // heads))
    return x, xbc[..., inner : inner + state], xbc[..., inner + state :]
