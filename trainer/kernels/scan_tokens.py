"""The part of the scan's backward in which tokens meet tokens, and the gradient of x.

A chunk of two blocks of tokens has three pairs of blocks (read, reader) with anything in them: (0, 0), (0, 1) and
(1, 1). `scores` makes B_j . C_i of those once for all heads. A program of `token_gradients` owns one block of readers'
sources and some heads; for each head it makes dx of its block at once, and sums over its heads the gradient of the
scores, so that the products with B and C are taken once for all heads (`scan_backward`).

In a block, a tile of pairs has the earlier token j, which is read, in rows, and the later i, which reads, in columns.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.decay import Decays
from trainer.kernels.functions import wide
from trainer.kernels.launch import Launch, stack, tiles
from trainer.kernels.scan_states import grouped
from trainer.kernels.shapes import ScanInputs

SCORES = Launch(warps=4)
TOKENS = Launch(warps=8, stages=3, block=16)  # block: heads a program sums over


@triton.jit
def _scores(b, c, firsts, scores, chunks, BLOCK: tl.constexpr, STATE: tl.constexpr):
    pair = tl.program_id(0) % 3
    chunk = (tl.program_id(0) // 3) % chunks
    batch = tl.program_id(0) // (3 * chunks)
    read, reader = pair // 2, (pair + 1) // 2
    row = tl.arange(0, BLOCK)
    b_tile = b.load([batch, (chunk * 2 + read) * BLOCK, 0]).reshape(BLOCK, STATE)
    c_tile = c.load([batch, (chunk * 2 + reader) * BLOCK, 0]).reshape(BLOCK, STATE)
    first = tl.load(firsts + ((wide(batch) * chunks + chunk) * 2 + reader) * BLOCK + row)
    j = read * BLOCK + row[:, None]
    seen = (j <= reader * BLOCK + row[None, :]) & (j >= first[None, :])
    result = tl.where(seen, tl.dot(b_tile, tl.trans(c_tile), input_precision="tf32x3"), 0.0)
    scores.store([tl.program_id(0) * BLOCK, 0], result)


@triton.jit
def _both(a, b, c, d):
    return a + c, b + d


@triton.jit
def _apart(total_j, total_i):
    return tl.exp2(tl.minimum(total_i[None, :] - total_j[:, None], 0.0))


@triton.jit
def _store_sums(paths, by_state, by_skip, starts, skips, place):
    """Sums along rows: of paths and by_state to `starts`, of by_skip to `skips`."""
    if paths.shape[1] == by_state.shape[1]:
        begun, skipped = tl.reduce((paths + by_state, by_skip), 1, _both)
    else:
        begun = tl.sum(paths, 1) + tl.sum(by_state, 1)
        skipped = tl.sum(by_skip, 1)
    tl.store(starts + place, begun)
    tl.store(skips + place, skipped)


@triton.jit
def _token_gradients(
    x,
    dy,
    b,
    lams,
    scores,
    steps,
    sums,
    kepts,
    d,
    dx,
    dscores,
    starts,
    stops,
    skips,
    tokens,
    heads,
    groups,
    BLOCK: tl.constexpr,
    STATE: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
):
    chunks = tl.cdiv(tokens, 2 * BLOCK)
    half = tl.program_id(0) % 2
    group = (tl.program_id(0) // 2) % groups
    chunk = (tl.program_id(0) // (2 * groups)) % chunks
    batch = tl.program_id(0) // (2 * groups * chunks)
    start = (chunk * 2 + half) * BLOCK
    row = tl.arange(0, BLOCK)
    spot = (batch * chunks + chunk) * heads + group * HEADS
    line = (wide(batch) * heads + group * HEADS) * chunks * 2 * BLOCK + start
    # what the second block takes from the first
    later = stops + wide(tl.num_programs(0) // (2 * groups)) * heads * 2 * BLOCK
    pair = (batch * chunks + chunk) * 3 + 2 * half
    b_tile = b.load([batch, start, 0]).reshape(BLOCK, STATE)
    own_dscores = tl.zeros([BLOCK, BLOCK], tl.float32)
    place = (group * (tl.num_programs(0) // (2 * groups)) * 3 + pair) * BLOCK
    if half == 0:
        far_dscores = tl.zeros([BLOCK, BLOCK], tl.float32)
        for number in range(HEADS):
            head = group * HEADS + number
            own_scores = scores.load([pair * BLOCK, 0])
            x_tile = x.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            dy_tile = dy.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            far_scores = scores.load([pair * BLOCK + BLOCK, 0])
            next_dy = dy.load([batch, start + BLOCK, head * WIDTH]).reshape(BLOCK, WIDTH)
            lam = lams.load([(spot + number) * STATE, 0])
            step = tl.load(steps + line + row)
            total = tl.load(sums + line + row)
            next_total = tl.load(sums + line + BLOCK + row)
            kept = tl.load(kepts + line + row)
            skip = tl.load(d + head).to(tl.float32)
            wide_x = x_tile.to(tl.float32)
            wide_dy = dy_tile.to(tl.float32)

            # products that wait for nothing come first: the exponentials are made while they run
            weights = tl.dot(x_tile, tl.trans(dy_tile), input_precision="tf32x3")
            next_weights = tl.dot(x_tile, tl.trans(next_dy), input_precision="tf32x3")
            far = tl.dot(b_tile, lam, input_precision="tf32x3")
            apart = _apart(total, total)
            near = tl.dot((own_scores * apart).to(x_tile.dtype), dy_tile, input_precision="tf32x3")
            next_apart = _apart(total, next_total)
            more = tl.dot((far_scores * next_apart).to(x_tile.dtype), next_dy, input_precision="tf32x3")
            weights *= apart * step[:, None]
            own_dscores += weights
            next_weights *= next_apart * step[:, None]
            far_dscores += next_weights
            paths, next_paths = weights * own_scores, next_weights * far_scores
            ended, next_ended = tl.reduce((paths, next_paths), 0, _both)
            tl.store(stops + line + row, ended)
            tl.store(later + line + BLOCK + row, next_ended)
            far *= kept[:, None]
            # fma, not +: Triton would chain the products, and lay out a chain for more warps than it has rows
            result = tl.fma(more, tl.broadcast_to(step[:, None], [BLOCK, WIDTH]), near * step[:, None] + far)
            result += skip * wide_dy
            dx.store([batch, start, head * WIDTH], result.to(x_tile.dtype).reshape(1, BLOCK, WIDTH))
            _store_sums(paths + next_paths, wide_x * far, wide_x * wide_dy, starts, skips, line + row)
            line += chunks * 2 * BLOCK
        dscores.store([place + BLOCK, 0], far_dscores)
    else:
        for number in range(HEADS):
            head = group * HEADS + number
            own_scores = scores.load([pair * BLOCK, 0])
            x_tile = x.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            dy_tile = dy.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            lam = lams.load([(spot + number) * STATE, 0])
            step = tl.load(steps + line + row)
            total = tl.load(sums + line + row)
            kept = tl.load(kepts + line + row)
            skip = tl.load(d + head).to(tl.float32)
            wide_x = x_tile.to(tl.float32)
            wide_dy = dy_tile.to(tl.float32)

            weights = tl.dot(x_tile, tl.trans(dy_tile), input_precision="tf32x3")
            far = tl.dot(b_tile, lam, input_precision="tf32x3")
            apart = _apart(total, total)
            near = tl.dot((own_scores * apart).to(x_tile.dtype), dy_tile, input_precision="tf32x3")
            weights *= apart * step[:, None]
            own_dscores += weights
            paths = weights * own_scores
            tl.store(stops + line + row, tl.sum(paths, 0))
            far *= kept[:, None]
            result = near * step[:, None] + far + skip * wide_dy
            dx.store([batch, start, head * WIDTH], result.to(x_tile.dtype).reshape(1, BLOCK, WIDTH))
            _store_sums(paths, wide_x * far, wide_x * wide_dy, starts, skips, line + row)
            line += chunks * 2 * BLOCK
    dscores.store([place, 0], own_dscores)


class TokenGrads(NamedTuple):
    """All float32. dscores: (groups of heads, batch x chunks, 3 pairs of blocks, block, block), the seen pairs only
    meant; starts, skips: like the decays, sums over what starts at a token, and x . dy; stops: (2, …), what ends."""

    dscores: Tensor
    starts: Tensor
    stops: Tensor
    skips: Tensor


def token_gradients(
    inputs: ScanInputs, grad: Tensor, decays: Decays, lams: Tensor, chunk: int, dx: Tensor
) -> TokenGrads:
    """Write dx; return what the gradients of B, C and of the decays are made from."""
    batch, tokens, heads, width = inputs.x.shape
    size = inputs.B.shape[-1]
    block = chunk // 2
    chunks = triton.cdiv(tokens, chunk)
    scores = torch.empty((batch * chunks * 3, block, block), dtype=torch.float32, device=grad.device)
    _scores[(batch * chunks * 3,)](
        tiles(inputs.B, block, size),
        tiles(inputs.C, block, size),
        decays.firsts,
        stack(scores, block),
        chunks,
        BLOCK=block,
        STATE=size,
        **SCORES.options(),
    )
    together = grouped(heads, TOKENS.block)
    groups = heads // together
    place = {"dtype": torch.float32, "device": grad.device}
    out = TokenGrads(
        torch.empty((groups, batch * chunks, 3, block, block), **place),  # type: ignore[call-overload]
        torch.empty_like(decays.sums),
        torch.empty((2, *decays.sums.shape), **place),  # type: ignore[call-overload]
        torch.empty_like(decays.sums),
    )
    _token_gradients[(batch * chunks * groups * 2,)](
        tiles(inputs.x, block, width),
        tiles(grad, block, width),
        tiles(inputs.B, block, size),
        stack(lams, size),
        stack(scores, block),
        decays.steps,
        decays.sums,
        decays.kept,
        inputs.D,
        tiles(dx, block, width),
        stack(out.dscores, block),
        out.starts,
        out.stops,
        out.skips,
        tokens,
        heads,
        groups,
        BLOCK=block,
        STATE=size,
        WIDTH=width,
        HEADS=together,
        **TOKENS.options(grad),
    )
    return out
