"""The SSD scan forward in one Triton kernel: the state stays in the registers.

A program owns one head of one sequence (or a slice of the head's channels) and walks the chunks from left to right.
In a chunk, tokens meet tokens through a masked matrix of scores, and the past through the state:

    y = ((C B^T) * L * dt) x  +  exp(s) (C h)  +  D x,      h <- exp(S) h + B^T (exp(S - s) dt x)

This is the block decomposition of the Mamba-2 paper (arXiv 2405.21060, section 6 and listing 1): the first term is its
diagonal blocks, the second and h the blocks below. s sums the log-decays from the start of the document, or of the
chunk (ssd_decay.py), and S is s at the end of the chunk; L_ij = exp(s_i - s_j) for j <= i of one document, else 0.

C B^T is the same for all heads and yet made again by each: the tensor cores have time for it, the memory has none.
Masks stop scores and state at borders of documents. Softplus, sums and states are float32; products take the input's
dtype. On request a program leaves a copy of the state for the backward at every second chunk, as the products took it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on
from .math import at_most, wide
from .shapes import STATE_TOKENS, ScanInputs, kept_states
from .ssd_decay import decays
from .tiles import opened, tiles

CHUNK = 64  # tokens; divides STATE_TOKENS, the chunk of the backward
FORWARD = TunableLaunch("scan_forward.FORWARD", Launch(warps=4, stages=2, block=64))  # block: channels of a head


@triton.jit
def _scan(
    x, b, c, steps, sums, enters, kepts, firsts, d, y, states,
    tokens, heads,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    x, b, c, y = opened(x), opened(b), opened(c), opened(y)
    slices: tl.constexpr = WIDTH // BLOCK
    head = (tl.program_id(0) // slices) % heads
    batch = tl.program_id(0) // (slices * heads)
    own = (tl.program_id(0) % slices) * BLOCK
    channel = head * WIDTH + own
    row = tl.arange(0, CHUNK)
    chunks = tl.cdiv(tokens, CHUNK)
    line = (wide(batch) * heads + head) * chunks * CHUNK
    firsts += wide(batch) * chunks * CHUNK
    skip = tl.load(d + head).to(tl.float32)
    state = tl.zeros([STATE, BLOCK], tl.float32)
    for chunk in range(chunks):
        start = chunk * CHUNK
        x_tile = x.load([batch, start, channel]).reshape(CHUNK, BLOCK)
        b_tile = b.load([batch, start, 0]).reshape(CHUNK, STATE)
        c_tile = c.load([batch, start, 0]).reshape(CHUNK, STATE)
        place = line + start + row
        step = tl.load(steps + place)
        total = tl.load(sums + place)
        enter = tl.load(enters + place)
        kept = tl.load(kepts + place)
        first = tl.load(firsts + start + row)
        carry = tl.load(enters + line + tl.minimum(start + CHUNK, tokens) - 1)

        # products that wait for nothing come first: the exponentials are made while they run
        mixed = tl.dot(c_tile, tl.trans(b_tile), input_precision="tf32x3")
        met = state.to(x_tile.dtype)
        past = tl.dot(c_tile, met, input_precision="tf32x3")
        if EVERY:  # noqa: SIM102 (where it is 0, nothing of this is compiled)
            if chunk % EVERY == 0:
                # By pointers: the copy engine would need a tile of shared memory for it, and then one program would
                # fit on a multiprocessor, not two.
                spot = (batch * tl.cdiv(chunks, EVERY) + chunk // EVERY) * heads + head
                numbers = tl.arange(0, STATE)[:, None] * WIDTH + own + tl.arange(0, BLOCK)[None, :]
                tl.store(states + wide(spot) * STATE * WIDTH + numbers, met)
        seen = (row[:, None] >= row[None, :]) & (row[None, :] >= first[:, None])
        apart = tl.where(seen, tl.exp2(at_most(total[:, None] - total[None, :], 0.0)), 0.0) * step[None, :]
        added = (x_tile.to(tl.float32) * kept[:, None]).to(x_tile.dtype)
        mixed = (mixed * apart).to(x_tile.dtype)
        out = tl.dot(mixed, x_tile, acc=past * enter[:, None], input_precision="tf32x3")
        state = tl.dot(tl.trans(b_tile), added, acc=state * carry, input_precision="tf32x3")
        out += skip * x_tile.to(tl.float32)
        y.store([batch, start, channel], out.to(x_tile.dtype).reshape(1, CHUNK, BLOCK))


def scan_forward(inputs: ScanInputs, keep: bool = False) -> tuple[Tensor, Tensor]:
    """y: (batch, tokens, heads, head_dim), contiguous; and `shapes.kept_states`."""
    batch, tokens, heads, width = inputs.x.shape
    state = inputs.B.shape[-1]
    y = torch.empty((batch, tokens, heads, width), dtype=inputs.x.dtype, device=inputs.x.device)
    block = min(FORWARD.block, width)
    states = kept_states(inputs.x, state, keep=keep)
    with on(inputs.x):
        _scan[(batch * heads * (width // block),)](
            tiles(inputs.x, CHUNK, block), tiles(inputs.B, CHUNK, state), tiles(inputs.C, CHUNK, state),
            *decays(inputs, CHUNK),
            inputs.D, tiles(y, CHUNK, block), states, tokens, heads,
            CHUNK=CHUNK, STATE=state, WIDTH=width, BLOCK=block,
            EVERY=STATE_TOKENS // CHUNK if keep else 0,
            **FORWARD.options(inputs.x),
        )  # fmt: skip
    return y, states
