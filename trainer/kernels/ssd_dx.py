"""The gradient of x: what the readers of a token hand back to it through the scores, and the state through lam.

`token_gradients`, a part of ssd_chunks.py, gives a program one block of tokens, half a chunk, and some heads. The first
block of a chunk is read by both, the second by itself (ssd_pairs.py): so the programs of the first take a product more.

    dx_j = dt_j sum over i >= j of (C_i . B_j) L_ij dy_i  +  dt_j exp(S - s_j) (lam B_j)  +  D dy_j

with L and s as in ssd_forward.py, and lam the gradient of the state after the chunk.
"""

import triton
import triton.language as tl

from .math import wide
from .ssd_pairs import apart


@triton.jit
def token_gradients(
    unit, half, x, dy, b, lams, scores, steps, sums, kepts, d, dx, starts,
    tokens, heads, bundles, groups,
    BLOCK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, SLOTS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    chunks = tl.cdiv(tokens, 2 * BLOCK)
    bundle = unit % bundles
    group = bundle * groups // bundles
    place = unit // bundles  # of the chunk, among those of all sequences
    batch = place // chunks
    start = ((place % chunks) * 2 + half) * BLOCK
    line = (wide(batch) * heads + bundle * HEADS) * chunks * 2 * BLOCK + start + tl.arange(0, BLOCK)
    slot = tl.arange(0, SLOTS)
    own = line[:, None] + slot[None, :] * chunks * 2 * BLOCK
    outlive = tl.zeros([BLOCK, SLOTS], tl.float32)
    b_tile = b.load([batch, start, group * STATE]).reshape(BLOCK, STATE)
    own_score = scores.load([((place * groups + group) * 2 + half) * BLOCK, half * BLOCK])
    if half == 0:
        far_score = scores.load([(place * groups + group) * 2 * BLOCK, BLOCK])
        for number in tl.range(0, HEADS, num_stages=STAGES):
            head = bundle * HEADS + number
            dy_tile = dy.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            next_dy = dy.load([batch, start + BLOCK, head * WIDTH]).reshape(BLOCK, WIDTH)
            lam = lams.load([(place * heads + head) * STATE, 0])
            x_tile = x.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            step = tl.load(steps + line)
            total = tl.load(sums + line)
            next_total = tl.load(sums + line + BLOCK)
            kept = tl.load(kepts + line)
            skip = tl.load(d + head).to(tl.float32)

            far = tl.dot(b_tile, lam, input_precision="tf32x3")  # waits for nothing: exponentials are made meanwhile
            near = tl.dot((own_score * apart(total, total)).to(dy_tile.dtype), dy_tile, input_precision="tf32x3")
            more = (far_score * apart(total, next_total)).to(dy_tile.dtype)
            near = tl.dot(more, next_dy, acc=near, input_precision="tf32x3")
            far *= kept[:, None]
            result = near * step[:, None] + far + skip * dy_tile.to(tl.float32)
            dx.store([batch, start, head * WIDTH], result.to(x_tile.dtype).reshape(1, BLOCK, WIDTH))
            outlive = tl.where(slot[None, :] == number, tl.sum(x_tile.to(tl.float32) * far, 1)[:, None], outlive)
            line += chunks * 2 * BLOCK
    else:
        for number in tl.range(0, HEADS, num_stages=STAGES):
            head = bundle * HEADS + number
            dy_tile = dy.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            lam = lams.load([(place * heads + head) * STATE, 0])
            x_tile = x.load([batch, start, head * WIDTH]).reshape(BLOCK, WIDTH)
            step = tl.load(steps + line)
            total = tl.load(sums + line)
            kept = tl.load(kepts + line)
            skip = tl.load(d + head).to(tl.float32)

            far = tl.dot(b_tile, lam, input_precision="tf32x3")
            near = tl.dot((own_score * apart(total, total)).to(dy_tile.dtype), dy_tile, input_precision="tf32x3")
            far *= kept[:, None]
            result = near * step[:, None] + far + skip * dy_tile.to(tl.float32)
            dx.store([batch, start, head * WIDTH], result.to(x_tile.dtype).reshape(1, BLOCK, WIDTH))
            outlive = tl.where(slot[None, :] == number, tl.sum(x_tile.to(tl.float32) * far, 1)[:, None], outlive)
            line += chunks * 2 * BLOCK
    tl.store(starts + own, outlive, mask=(slot < HEADS)[None, :])
