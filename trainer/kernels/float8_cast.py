"""A matrix times a scale in float8, as it lies and turned, from one read of it.

A product in float8 wants both operands along their inner side, so each matrix of a linear is multiplied as it lies in
one product and the other way round in another. A compiler makes the two as two kernels, and the one that turns writes
single bytes a column apart. Here a program reads a tile once and writes it both ways.

What is turned are words of four codes, of one column and four rows: so shared memory is read and written by words, and
no number is rounded twice. (Of a tile of bytes Triton turns the bfloat16 that they are made of, and rounds once for
each way.) A matrix that is no number of whole tiles goes through the second kernel, byte by byte.

The codes are those of torch: the product in float32, held within what the format can say, rounded to the nearest and to
even; NaN stays NaN. They are made by arithmetic, beneath the time of the bytes, so what the tests show in Triton's
interpreter holds on a GPU. (By Hopper's own conversion Triton 3.6 made wrong words of what it turned, and no faster.)
A run that wants this kernel holds it against torch's casts first (docs/kernels.md).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, on, pieces
from .math import at_least, at_most, wide

CAST = Launch(warps=8, block=128)


@triton.jit
def _code(value, LARGEST: tl.constexpr, LEAST: tl.constexpr, DIGITS: tl.constexpr):
    """The bits of the float8 number next to a float32 one; `LARGEST` is the largest, 2^`LEAST` the smallest normal one,
    `DIGITS` come behind the point. Where the last digit of a sum is worth a step of float8, its last bits count the
    steps, rounded as any sum is; codes of a binade follow on those of the one below."""
    value = at_least(at_most(value, LARGEST), -LARGEST)
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
    LARGEST: tl.constexpr, LEAST: tl.constexpr, DIGITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Whole tiles. `turned` is seen as words: (width, height / 4)."""
    # offsets within a tile in 32 bits, from the tile's place in 64
    first, left = wide(tl.program_id(0)) * TILE, wide(tl.program_id(1)) * TILE
    four, column = tl.arange(0, TILE // 4), tl.arange(0, TILE)
    x += first * stride + left
    rows += first * width + left
    turned += left * (height // 4) + first // 4
    take = four[:, None] * (4 * stride) + column[None, :]
    a, b, c, d = (
        tl.load(x + take),
        tl.load(x + stride + take),
        tl.load(x + 2 * stride + take),
        tl.load(x + 3 * stride + take),
    )
    by = tl.load(scale)
    a = _code(a.to(tl.float32) * by, LARGEST, LEAST, DIGITS)
    b = _code(b.to(tl.float32) * by, LARGEST, LEAST, DIGITS)
    c = _code(c.to(tl.float32) * by, LARGEST, LEAST, DIGITS)
    d = _code(d.to(tl.float32) * by, LARGEST, LEAST, DIGITS)
    give = four[:, None] * (4 * width) + column[None, :]
    tl.store(rows + give, a)
    tl.store(rows + width + give, b)
    tl.store(rows + 2 * width + give, c)
    tl.store(rows + 3 * width + give, d)
    word = a.to(tl.int32) | (b.to(tl.int32) << 8) | (c.to(tl.int32) << 16) | (d.to(tl.int32) << 24)
    tl.store(turned + column[:, None] * (height // 4) + four[None, :], tl.trans(word))


@triton.jit
def _float8_cast_any(
    x, scale, rows, turned,
    height, width, stride,
    LARGEST: tl.constexpr, LEAST: tl.constexpr, DIGITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = wide(tl.program_id(0)) * TILE + tl.arange(0, TILE)
    column = wide(tl.program_id(1)) * TILE + tl.arange(0, TILE)
    live = (row < height)[:, None] & (column < width)[None, :]
    value = tl.load(x + row[:, None] * stride + column[None, :], mask=live, other=0.0).to(tl.float32)
    code = _code(value * tl.load(scale), LARGEST, LEAST, DIGITS)
    tl.store(rows + row[:, None] * width + column[None, :], code, mask=live)
    tl.store(turned + column[:, None] * height + row[None, :], tl.trans(code), mask=tl.trans(live))


def float8_cast(x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(height, width) and (width, height), contiguous. The last dimension of x has a stride of 1."""
    height, width = x.shape
    of = torch.finfo(dtype)
    rows = torch.empty((height, width), dtype=dtype, device=x.device)
    turned = torch.empty((width, height), dtype=dtype, device=x.device)
    kind: dict[str, Any] = {
        **{"LARGEST": of.max, "LEAST": round(math.log2(of.smallest_normal)), "DIGITS": -round(math.log2(of.eps))},
        **{"TILE": CAST.block, **CAST.options()},
    }
    given, sizes = (x, scale, rows.view(torch.uint8)), (height, width, x.stride(0))
    down, along = pieces(height, CAST.block), pieces(width, CAST.block)
    with on(x):
        if height % CAST.block or width % CAST.block:
            _float8_cast_any[(down, along)](*given, turned.view(torch.uint8), *sizes, **kind)
        else:
            _float8_cast[(down, along)](*given, turned.view(torch.int32), *sizes, **kind)
    return rows, turned
