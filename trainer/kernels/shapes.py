"""The tensors that the kernels speak of, named once.

A token's row of the packed projection is `z | x | B | C | dt`: gate and input (heads x head_dim each), the two
projections of the state (state each, one group for all heads), and the step (one number a head). `x | B | C` pass
through the convolution together.

`documents` (int32, batch x tokens) numbers the documents of a row from left to right: ids ascend, none returns.
"""

from typing import NamedTuple

from torch import Tensor

STATE_TOKENS = 128  # tokens from one state that the backward needs to the next: fewer would be more states to read


class ScanInputs(NamedTuple):
    """What the scan reads. x: (batch, tokens, heads, head_dim); dt, before bias and softplus: (batch, tokens, heads);
    B, C: (batch, tokens, state); A_log, D, dt_bias: (heads,); documents: (batch, tokens)."""

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
