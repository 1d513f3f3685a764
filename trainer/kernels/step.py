"""One token of a Mamba2 block in Triton: convolution, step size, state, skip; the gated norm follows as its own launch.

A program owns one head of one row, or some of its channels (as head_parts.py parts them), and their part of the state.
It makes these channels and the group's B and C from the halo and the token, decays the state, adds to it and reads it
once, and writes it back: 2 x 4 bytes a number of the state, all that there is to move. h <- exp(A dt) h + dt x B^T,
y = h C + D x (arXiv 2405.21060, section 3).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gated_norm import norm_forward
from .launch import Launch, on, pieces
from .math import at_least, at_most, sigmoid, softplus, wide
from .shapes import MixInputs, unpack
from .supported import part_width

STEP = Launch(warps=4)
SHIFT = Launch(warps=4, block=1024)


@triton.jit
def _convolved(row, halo, weight, bias, column, channels):
    """silu of the convolution of some channels, as the next kernel of a longer row would read it."""
    total = tl.load(bias + column).to(tl.float32)
    total += tl.load(weight + column * 4 + 3).to(tl.float32) * tl.load(row + column).to(tl.float32)
    total += tl.load(weight + column * 4 + 2).to(tl.float32) * tl.load(halo + 2 * channels + column).to(tl.float32)
    total += tl.load(weight + column * 4 + 1).to(tl.float32) * tl.load(halo + channels + column).to(tl.float32)
    total += tl.load(weight + column * 4).to(tl.float32) * tl.load(halo + column).to(tl.float32)
    return (total * sigmoid(total)).to(row.dtype.element_ty).to(tl.float32)


@triton.jit
def _step(
    zxbcdt, halo, weight, bias, a_log, d, dt_bias, state, y,
    heads, group_heads, groups, row_stride, least, largest,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, STATE: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    slices: tl.constexpr = WIDTH // BLOCK
    head, batch = tl.program_id(0) // slices, wide(tl.program_id(1))
    inner = heads * WIDTH
    channels = inner + 2 * groups * STATE
    row = zxbcdt + batch * row_stride + inner
    halo += batch * 3 * channels
    own, number = (tl.program_id(0) % slices) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STATE)
    of_group = inner + (head // group_heads) * STATE + number
    x = _convolved(row, halo, weight, bias, head * WIDTH + own, channels)
    b = _convolved(row, halo, weight, bias, of_group, channels)
    c = _convolved(row, halo, weight, bias, of_group + groups * STATE, channels)
    wait = softplus(tl.load(row + channels + head).to(tl.float32) + tl.load(dt_bias + head).to(tl.float32))
    if LIMITED:
        wait = at_least(at_most(wait, largest), least)
    kept = tl.exp(-tl.exp(tl.load(a_log + head).to(tl.float32)) * wait)
    place = (batch * heads + head) * WIDTH * STATE + own[:, None] * STATE + number[None, :]
    now = kept * tl.load(state + place) + (wait * x)[:, None] * b[None, :]
    tl.store(state + place, now)
    out = tl.sum(now * c[None, :], 1) + tl.load(d + head).to(tl.float32) * x
    tl.store(y + batch * inner + head * WIDTH + own, out.to(y.dtype.element_ty))


@triton.jit
def _shift(zxbcdt, halo, inner, channels, row_stride, BLOCK: tl.constexpr):
    """The halo's three tokens move on by one, when all heads have read them: B and C are read by many."""
    column, batch = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), wide(tl.program_id(1))
    live = column < channels
    halo += batch * 3 * channels + column
    second, third = tl.load(halo + channels, mask=live), tl.load(halo + 2 * channels, mask=live)
    token = tl.load(zxbcdt + batch * row_stride + inner + column, mask=live)
    tl.store(halo, second, mask=live)
    tl.store(halo + channels, third, mask=live)
    tl.store(halo + 2 * channels, token, mask=live)


def step(given: MixInputs, eps: float) -> Tensor:
    """`ops.step`: one token a row, state and halo changed in place."""
    assert given.state_in is not None and given.halo_in is not None
    z, xbc, _ = unpack(given.zxbcdt, given.inner, given.heads)
    batch = xbc.shape[0]
    y = torch.empty((batch, 1, given.inner), dtype=xbc.dtype, device=xbc.device)
    block = part_width(given.head_dim, given.state)
    with on(xbc):
        _step[(given.inner // block, batch)](
            given.zxbcdt, given.halo_in, given.conv_weight, given.conv_bias,
            given.A_log, given.D, given.dt_bias, given.state_in, y,
            given.heads, given.heads // given.groups, given.groups, given.zxbcdt.stride(0), given.dt_min, given.dt_max,
            WIDTH=given.head_dim, BLOCK=block, STATE=given.state, LIMITED=given.dt_min > 0 or given.dt_max < math.inf,
            **STEP.options(),
        )  # fmt: skip
        channels = xbc.shape[-1]
        _shift[(pieces(channels, SHIFT.block), batch)](
            given.zxbcdt, given.halo_in, given.inner, channels, given.zxbcdt.stride(0),
            BLOCK=SHIFT.block, **SHIFT.options(),
        )  # fmt: skip
    return norm_forward(y, z, given.norm_weight, eps, given.norm_groups)
