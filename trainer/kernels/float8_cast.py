"""A matrix times a scale in float8, as it lies and turned, from one read of it.

A product in float8 wants both operands along their inner side, so the backward of a linear needs each of its matrices
the other way round too. A compiler makes the two as two kernels, and the one that turns writes single bytes a column
apart. Here a program reads a tile once, rounds it once, and writes it where it lies and, turned in registers, where it
goes; rows of a tile are as long as memory likes both ways.

The codes are those of torch: the product in float32, held within what the format can say, rounded to the nearest and to
even; NaN stays NaN. They are made by arithmetic, not by a device's conversion, so what the tests show in Triton's
interpreter holds on a GPU. On an H200 a step was no faster by it (docs/kernels.md).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, on
from .math import at_least, at_most, wide

CAST = Launch(warps=8, block=128)


@triton.jit
def _code(value, LEAST: tl.constexpr, DIGITS: tl.constexpr):
    """The bits of the float8 number next to a float32 one that is no larger than all of them; 2^`LEAST` is the smallest
    normal one, `DIGITS` come behind the point. Where the last digit of a sum is worth a step of float8, its last bits
    count the steps, rounded as any sum is; codes of a binade follow on those of the one below."""
    bits = value.to(tl.int32, bitcast=True)
    binade = tl.maximum((bits >> 23) & 0xFF, LEAST + 127)
    shift = ((binade + 23 - DIGITS) << 23).to(tl.float32, bitcast=True)
    steps = (tl.abs(value) + shift).to(tl.int32, bitcast=True) & 0x7FFFFF
    code = ((binade - (LEAST + 127)) << DIGITS) + steps
    return (tl.where(value == value, code, 0x7F) | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def _float8_cast(
    x, scale, rows, turned,
    height, width, stride,
    LARGEST: tl.constexpr, LEAST: tl.constexpr, DIGITS: tl.constexpr, KEEP_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = wide(tl.program_id(0)) * TILE + tl.arange(0, TILE)
    column = wide(tl.program_id(1)) * TILE + tl.arange(0, TILE)
    live = (row < height)[:, None] & (column < width)[None, :]
    value = tl.load(x + row[:, None] * stride + column[None, :], mask=live, other=0.0).to(tl.float32)
    value = at_least(at_most(value * tl.load(scale), LARGEST), -LARGEST)
    code = _code(value, LEAST, DIGITS)
    if KEEP_ROWS:
        tl.store(rows + row[:, None] * width + column[None, :], code, mask=live)
    tl.store(turned + column[:, None] * height + row[None, :], tl.trans(code), mask=tl.trans(live))


def float8_cast(x: Tensor, scale: Tensor, dtype: torch.dtype, keep_rows: bool) -> tuple[Tensor, Tensor]:
    """(height, width) and (width, height), contiguous; the first is empty where it is not wanted. The last dimension of
    x has a stride of 1."""
    height, width = x.shape
    of = torch.finfo(dtype)
    rows = torch.empty((height, width) if keep_rows else (0, width), dtype=dtype, device=x.device)
    turned = torch.empty((width, height), dtype=dtype, device=x.device)
    with on(x):
        _float8_cast[(triton.cdiv(height, CAST.block), triton.cdiv(width, CAST.block))](
            x, scale, rows.view(torch.uint8), turned.view(torch.uint8), height, width, x.stride(0),
            LARGEST=of.max, LEAST=round(math.log2(of.smallest_normal)), DIGITS=-round(math.log2(of.eps)),
            KEEP_ROWS=keep_rows, TILE=CAST.block, **CAST.options(),
        )  # fmt: skip
    return rows, turned
