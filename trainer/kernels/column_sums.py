"""The gradients of a block's parameters, from the tables of sums that its backward leaves, in one launch of Triton.

The kernels of the backward add nothing to one place: each of their programs writes a row of a table in float32, and the
sum of a column of such a table is the gradient of one number. Summed, turned and rounded by operations of torch that is
a launch for each step of each table, and most of them take longer to begin than to work.

A program has some columns of one table and goes down them in steps of 64 rows; what it then holds it adds in halves.
All of that is in float32, in an order that only the number of rows decides, not the launch: the same bits every time.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, on, pieces

SUMS = Launch(warps=4, block=32)  # block: columns of a program, 128 bytes of a row
ROWS = tl.constexpr(64)  # read at once
HALVINGS = tl.constexpr(6)  # until one is left of them


@triton.jit
def _total(table, rows, stride, column, width):
    """The sums over all rows; `stride` numbers lie from one row to the next."""
    row = tl.arange(0, ROWS)
    total = tl.zeros([ROWS, column.shape[0]], tl.float32)
    for first in range(0, rows, ROWS):
        place = (first + row).to(tl.int64)[:, None] * stride + column[None, :]
        live = (first + row < rows)[:, None] & (column < width)[None, :]
        total += tl.load(table + place, mask=live, other=0.0)
    # Not by one `tl.sum`: that one's order is a matter of warps. Of two numbers there is but one sum.
    for _ in tl.static_range(HALVINGS):
        total = tl.sum(tl.reshape(total, [2, total.shape[0] // 2, total.shape[1]]), 0)
    return tl.reshape(total, [total.shape[1]])


@triton.jit
def _store(out, column, stride, width, total):
    tl.store(out + column * stride, total.to(out.dtype.element_ty), mask=column < width)


@triton.jit
def _column_sums(
    scan, norm, conv, da_log, dd, ddt_bias, dnorm, dweight, dbias,
    scan_rows, norm_rows, conv_rows, heads, inner, channels,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs of the scan's table come first, then those of the norm's and the convolution's, if there are any."""
    program = tl.program_id(0)
    blocks = tl.cdiv(heads, BLOCK)
    lane = tl.arange(0, BLOCK)
    if program < 3 * blocks:
        column = program % blocks * BLOCK + lane
        of = program // blocks
        total = _total(scan + of * heads, scan_rows, 3 * heads, column, heads)
        if of == 0:
            _store(da_log, column, 1, heads, total)
        elif of == 1:
            _store(dd, column, 1, heads, total)
        else:
            _store(ddt_bias, column, 1, heads, total)
    elif norm is not None:
        program -= 3 * blocks
        blocks = tl.cdiv(inner, BLOCK)
        if program < blocks:
            column = program * BLOCK + lane
            _store(dnorm, column, 1, inner, _total(norm, norm_rows, inner, column, inner))
        else:
            program -= blocks
            blocks = tl.cdiv(channels, BLOCK)
            column = program % blocks * BLOCK + lane
            tap = program // blocks
            total = _total(conv + tap * channels, conv_rows, 5 * channels, column, channels)
            if tap < 4:
                _store(dweight + tap, column, 4, channels, total)
            else:
                _store(dbias, column, 1, channels, total)


def column_sums(
    parameters: Sequence[Tensor], scan: Tensor, conv: Tensor | None = None, norm: Tensor | None = None
) -> list[Tensor]:
    """`reference.column_sums`, of contiguous tables in float32."""
    sums = [torch.empty_like(one) for one in parameters]
    heads, inner, channels = scan.shape[2], 0, 0
    outs: list[Tensor | None] = [*sums, None, None, None]
    if conv is not None and norm is not None:
        dweight, dbias, *of_scan, dnorm = sums
        outs, inner, channels = [*of_scan, dnorm, dweight, dbias], norm.shape[1], conv.shape[2]
    tables = (scan, norm, conv)
    rows = (0 if table is None else len(table) for table in tables)
    blocks = 3 * pieces(heads, SUMS.block) + pieces(inner, SUMS.block) + 5 * pieces(channels, SUMS.block)
    with on(scan):
        _column_sums[(blocks,)](*tables, *outs, *rows, heads, inner, channels, BLOCK=SUMS.block, **SUMS.options())
    return sums
