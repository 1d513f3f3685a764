"""The gradient of x: what the readers of a token hand back to it through the scores, and the state through lam.

A program owns one block of tokens, half a chunk, and some heads. The first block of a chunk is read by both, the second
by itself (ssd_pairs.py): so the programs of the first take a product more.

    dx_j = dt_j sum over i >= j of (C_i . B_j) L_ij dy_i  +  dt_j exp(S - s_j) (lam B_j)  +  D dy_j

with L and s as in ssd_forward.py, and lam the gradient of the state after the chunk.
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch
from .math import wide
from .shapes import ScanInputs
from .ssd_decay import Decays
from .ssd_pairs import apart
from .ssd_states import bundled
from .tiles import opened, stack, tiles

TOKENS = TunableLaunch(
    "scan_tokens.TOKENS", Launch(warps=4, stages=2, block=16)
)  # block: heads of a program; 2 on a multiprocessor


@triton.jit
def _token_gradients(
    x, dy, b, lams, scores, steps, sums, kepts, d, dx, starts,
    tokens, heads, bundles, groups,
    BLOCK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    x, dy, b, lams, scores, dx = opened(x), opened(dy), opened(b), opened(lams), opened(scores), opened(dx)
    chunks = tl.cdiv(tokens, 2 * BLOCK)
    half = tl.program_id(0) % 2
    bundle = (tl.program_id(0) // 2) % bundles
    group = bundle * groups // bundles
    place = tl.program_id(0) // (2 * bundles)  # of the chunk, among those of all sequences
    batch = place // chunks
    start = ((place % chunks) * 2 + half) * BLOCK
    line = (wide(batch) * heads + bundle * HEADS) * chunks * 2 * BLOCK + start + tl.arange(0, BLOCK)
    b_tile = b.load([batch, start, group * STATE]).reshape(BLOCK, STATE)
    own_score = scores.load([((place * groups + group) * 2 + half) * BLOCK, half * BLOCK])
    if half == 0:
        far_score = scores.load([(place * groups + group) * 2 * BLOCK, BLOCK])
        for number in range(HEADS):
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
            tl.store(starts + line, tl.sum(x_tile.to(tl.float32) * far, 1))
            line += chunks * 2 * BLOCK
    else:
        for number in range(HEADS):
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
            tl.store(starts + line, tl.sum(x_tile.to(tl.float32) * far, 1))
            line += chunks * 2 * BLOCK


def token_gradients(
    inputs: ScanInputs, grad: Tensor, decays: Decays, lams: Tensor, scores: Tensor, dx: Tensor, starts: Tensor
) -> None:
    """Write dx, and to `starts`, laid out like the decays, what starts at a token and outlives the chunk."""
    tokens, heads, width = inputs.x.shape[1:]
    groups, size = inputs.B.shape[2:]
    places, block = scores.shape[0] // groups, scores.shape[-1] // 2
    together = bundled(inputs.group_heads, TOKENS.block)
    bundles = heads // together
    _token_gradients[(places * bundles * 2,)](
        tiles(inputs.x, block, width), tiles(grad, block, width), tiles(inputs.B, block, size),
        stack(lams, size), stack(scores, block, block), decays.steps, decays.sums, decays.kept, inputs.D,
        tiles(dx, block, width), starts, tokens, heads, bundles, groups,
        BLOCK=block, STATE=size, WIDTH=width, HEADS=together, **TOKENS.options(grad),
    )  # fmt: skip
