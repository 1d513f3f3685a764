"""weight * rms_norm(y * silu(z)) in Triton, forward and backward; one pass over memory each.

RMSNorm (arXiv 1910.07467) behind the gate, as the Mamba-2 block has it (arXiv 2405.21060, section 7.1). With u = y
silu(z), r = 1 / rms(u) and g the gradient of the output times the weight: du = r (g - u r^2 mean(g u)).

A program holds whole rows in registers. In the backward it takes many rows, so that the weight's gradient is summed
there and only a small table of partial sums is left: no atomics, the same bits every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on
from .math import sigmoid, wide

FORWARD = TunableLaunch("norm.FORWARD", Launch(warps=8))
BACKWARD = TunableLaunch("norm.BACKWARD", Launch(warps=16, registers=64))  # two programs on a multiprocessor
WIDE = 8192  # channels of a norm: more of them need twice the registers
PROGRAMS = 264  # of the backward: two on each of an H100's 132 multiprocessors; as many rows of partial sums


@triton.jit
def _gated_norm(y, z, weight, out, eps, tokens, groups, width, z_batch, z_token, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # of a group of a token
    token, group = row // groups, row % groups
    column = tl.arange(0, WIDTH)
    live = column < width
    at_z = (token // tokens) * z_batch + (token % tokens) * z_token + group * width + column
    gate = tl.load(z + at_z, mask=live, other=0.0)
    gate = gate.to(tl.float32)
    gated = tl.load(y + row * width + column, mask=live, other=0.0).to(tl.float32) * gate * sigmoid(gate)
    scale = tl.rsqrt(tl.sum(gated * gated) / width + eps)
    result = gated * scale * tl.load(weight + group * width + column, mask=live, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _both(a, b, c, d):
    return a + c, b + d


@triton.jit
def _gated_norm_backward(
    y, z, weight, grad, dy, dz, dweight,
    eps, rows, tokens, groups, width, z_batch, z_token, dz_batch, dz_token,
    WIDTH: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, WIDTH)
    live = column < width
    total = tl.zeros([WIDTH], tl.float32)
    group = tl.program_id(0) % groups  # of all its rows: there are a multiple of `groups` programs
    weight += group * width
    for number in range(tl.program_id(0), rows, tl.num_programs(0)):
        at_y = wide(number) * width + column
        token = number // groups
        at_z = wide(token // tokens) * z_batch + wide(token % tokens) * z_token + group * width + column
        gate = tl.load(z + at_z, mask=live, other=0.0, eviction_policy="evict_last").to(tl.float32)
        gated = tl.load(y + at_y, mask=live, other=0.0, eviction_policy="evict_last").to(tl.float32)
        gated *= gate * sigmoid(gate)
        inner = tl.load(grad + at_y, mask=live, other=0.0, eviction_policy="evict_last").to(tl.float32)
        inner *= tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
        squares, meets = tl.reduce((gated * gated, inner * gated), 0, _both)
        scale = tl.rsqrt(squares / width + eps)
        # Read again, from the cache: kept in registers across the sum, the row would spill.
        wide_z = tl.load(z + at_z, mask=live, other=0.0, eviction_policy="evict_first").to(tl.float32)
        wide_y = tl.load(y + at_y, mask=live, other=0.0, eviction_policy="evict_first").to(tl.float32)
        wide_grad = tl.load(grad + at_y, mask=live, other=0.0, eviction_policy="evict_first").to(tl.float32)
        gate = sigmoid(wide_z)
        opened = wide_z * gate
        normal = wide_y * opened * scale
        total += wide_grad * normal
        inner = wide_grad * tl.load(weight + column, mask=live, other=0.0, eviction_policy="evict_last").to(tl.float32)
        dgated = scale * (inner - normal * (scale * meets / width))
        tl.store(dy + at_y, (dgated * opened).to(dy.dtype.element_ty), mask=live)
        out = dgated * wide_y * (gate + opened * (1.0 - gate))
        place = wide(token // tokens) * dz_batch + wide(token % tokens) * dz_token + group * width + column
        tl.store(dz + place, out.to(dz.dtype.element_ty), mask=live)
    tl.store(dweight + tl.program_id(0) * width + column, total, mask=live)


def norm_forward(y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """weight * rms_norm(y * silu(z)) over the last dimension, or over each of so many equal parts of it; y is
    contiguous, z a view with contiguous rows."""
    batch, tokens, width = y.shape
    out = torch.empty_like(y)
    with on(y):
        _gated_norm[(batch * tokens * groups,)](
            y, z, weight, out, eps, tokens, groups, width // groups, *z.stride()[:2],
            WIDTH=triton.next_power_of_2(width // groups),
            **FORWARD.options(),
        )  # fmt: skip
    return out


def norm_backward(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, grad: Tensor, out_z: Tensor, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Write the gradient of z to `out_z`; return that of y, and the table for that of weight, `column_sums`."""
    batch, tokens, width = y.shape
    rows = batch * tokens * groups
    programs = min(max(PROGRAMS // groups, 1) * groups, rows)
    options = BACKWARD.options(y)
    if width // groups > WIDE and "maxnreg" in options:
        options["maxnreg"] = max(options["maxnreg"], 128)
    dy = torch.empty_like(y)
    partial = torch.empty((programs // groups, width), dtype=torch.float32, device=y.device)
    with on(y):
        _gated_norm_backward[(programs,)](
            y, z, weight, grad, dy, out_z, partial, eps, rows, tokens, groups, width // groups,
            *z.stride()[:2], *out_z.stride()[:2],
            WIDTH=triton.next_power_of_2(width // groups),
            **options,
        )  # fmt: skip
    return dy, partial
