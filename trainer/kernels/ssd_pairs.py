"""The part of the scan's backward in which tokens meet tokens: the gradients of the scores and of the decays between.

A chunk has two blocks of tokens. The first is read by both, the second by itself: that makes three pairs of blocks
(read, reader). The scores B_j . C_i of a chunk, made by `scores` once for all heads of a group, are a square with the
source j in rows and the reader i in columns, of which the lower left quarter is never used. `pair_gradients`, a
part of ssd_chunks.py, gives a program a pair of blocks and some heads. It sums over its heads the gradient of the
scores, so that the products with B and C are taken once for a group (`scan_backward`), and makes of each head's paths
from j to i the sums that its decays need: over all i what starts at j, over all j what ends at i, both from the very
same products.

    dscores_ij = sum over heads of L_ij dt_j (dy_i . x_j),      paths_ij = (C_i . B_j) L_ij dt_j (dy_i . x_j)

so that dC_i = sum over j of dscores_ij B_j, dB_j = sum over i of dscores_ij C_i, and the log-decay a_k has the gradient
sum over j < k <= i of paths_ij.

What a head leaves for each token stays in registers until all heads of a program are done, a column for each (SLOTS of
them), and is stored once: stored head by head, it had to change its layout each time, which four barriers a head were
for. So a third of the time of these programs went.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, pieces
from .math import at_most, wide
from .shapes import ScanInputs
from .ssd_decay import Decays
from .tiles import opened, stack, tiles

SCORES = TunableLaunch("scan_pairs.SCORES", Launch(warps=4))


@triton.jit
def _scores(b, c, firsts, scores, chunks, groups, BLOCK: tl.constexpr, STATE: tl.constexpr):
    b, c, scores = opened(b), opened(c), opened(scores)
    half = tl.program_id(0) % 2
    group = (tl.program_id(0) // 2) % groups
    chunk = (tl.program_id(0) // (2 * groups)) % chunks
    batch = tl.program_id(0) // (2 * groups * chunks)
    i = tl.arange(0, 2 * BLOCK)
    j = half * BLOCK + tl.arange(0, BLOCK)[:, None]
    b_tile = b.load([batch, (chunk * 2 + half) * BLOCK, group * STATE]).reshape(BLOCK, STATE)
    c_tile = c.load([batch, chunk * 2 * BLOCK, group * STATE]).reshape(2 * BLOCK, STATE)
    first = tl.load(firsts + (wide(batch) * chunks + chunk) * 2 * BLOCK + i)
    seen = (j <= i[None, :]) & (j >= first[None, :])
    result = tl.where(seen, tl.dot(b_tile, tl.trans(c_tile), input_precision="tf32x3"), 0.0)
    scores.store([tl.program_id(0) * BLOCK, 0], result)


@triton.jit
def apart(total_j, total_i):
    """What is left at each reader i of what a source j gave: a tile with j in rows and i in columns."""
    return tl.exp2(at_most(total_i[None, :] - total_j[:, None], 0.0))


@triton.jit
def _both(a, b, c, d):
    return a + c, b + d


@triton.jit
def pair_gradients(
    unit, pair, x, dy, scores, steps, sums, dscores, starts, stops, skips,
    tokens, heads, bundles, groups, batches,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, SLOTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    strips: tl.constexpr = 4  # of rows: a warp's, of four, so that warps have nothing to tell each other before the end
    chunks = tl.cdiv(tokens, 2 * BLOCK)
    bundle = unit % bundles
    place = unit // bundles  # of the chunk, among those of all sequences
    places = batches * chunks
    batch = place // chunks
    read, reader = pair // 2, (pair + 1) // 2
    start = (place % chunks) * 2 * BLOCK
    row = tl.arange(0, BLOCK)
    line = (wide(batch) * heads + bundle * HEADS) * chunks * 2 * BLOCK + start
    j, i = line + read * BLOCK + row, line + reader * BLOCK + row
    starts += reader * wide(places) * heads * 2 * BLOCK
    stops += read * wide(places) * heads * 2 * BLOCK
    score = scores.load([((place * groups + bundle * groups // bundles) * 2 + read) * BLOCK, reader * BLOCK])
    itself = row[:, None] == row[None, :]
    summed = tl.zeros([BLOCK, BLOCK], tl.float32)
    slot = tl.arange(0, SLOTS)
    begun = tl.zeros([BLOCK, SLOTS], tl.float32)
    ended = tl.zeros([strips, SLOTS, BLOCK], tl.float32)
    skipped = tl.zeros([BLOCK, SLOTS], tl.float32)
    for number in tl.range(0, HEADS, num_stages=STAGES):
        column = (bundle * HEADS + number) * WIDTH
        x_tile = x.load([batch, start + read * BLOCK, column]).reshape(BLOCK, WIDTH)
        dy_tile = dy.load([batch, start + reader * BLOCK, column]).reshape(BLOCK, WIDTH)
        step = tl.load(steps + j)
        total_j = tl.load(sums + j)
        total_i = tl.load(sums + i)
        weights = tl.dot(x_tile, tl.trans(dy_tile), input_precision="tf32x3")
        by_skip = tl.where(itself, weights, 0.0)
        weights *= apart(total_j, total_i) * step[:, None]
        summed += weights
        paths = weights * score
        of_read, of_skip = tl.reduce((paths, by_skip), 1, _both)
        of_reader = tl.sum(tl.reshape(paths, [strips, BLOCK // strips, BLOCK]), 1)
        begun = tl.where(slot[None, :] == number, of_read[:, None], begun)
        skipped = tl.where(slot[None, :] == number, of_skip[:, None], skipped)
        ended = tl.where(slot[None, :, None] == number, of_reader[:, None, :], ended)
        j += chunks * 2 * BLOCK
        i += chunks * 2 * BLOCK
    own = line + slot * chunks * 2 * BLOCK
    live = slot < HEADS
    j = read * BLOCK + row
    tl.store(starts + own[None, :] + j[:, None], begun, mask=live[None, :])
    tl.store(stops + own[:, None] + (reader * BLOCK + row)[None, :], tl.sum(ended, 0), mask=live[:, None])
    if read == reader:
        tl.store(skips + own[None, :] + j[:, None], skipped, mask=live[None, :])
    dscores += ((wide(bundle) * places + place) * 2 + read) * 2 * BLOCK * BLOCK + reader * BLOCK
    tl.store(dscores + row[:, None] * 2 * BLOCK + row[None, :], summed)


def all_scores(inputs: ScanInputs, decays: Decays, chunk: int) -> Tensor:
    """B_j . C_i of all pairs of a chunk and document, j in rows: (batch x chunks x groups, chunk, chunk) in float32."""
    batch, tokens, groups, size = inputs.B.shape
    chunks, block = pieces(tokens, chunk), chunk // 2
    scores = torch.empty((batch * chunks * groups, chunk, chunk), dtype=torch.float32, device=inputs.B.device)
    _scores[(batch * chunks * groups * 2,)](
        tiles(inputs.B, block, size), tiles(inputs.C, chunk, size), decays.firsts, stack(scores, block), chunks, groups,
        BLOCK=block, STATE=size, **SCORES.options(),
    )  # fmt: skip
    return scores
