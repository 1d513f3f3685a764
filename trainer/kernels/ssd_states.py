"""The states at the borders of chunks, and the gradients that flow through them.

`states` walks the chunks once for each head and keeps what each chunk meets: forwards h, the state before the chunk,
made again from x and B (cheaper than keeping it from the forward); backwards lam, the gradient of the state after the
chunk, from dy and C: the same code, mirrored.

`state_gradients`, a part of ssd_chunks.py, is a product of matrices with the heads inside the sum: a program owns half
a chunk and some heads, and sums in registers either dC = sum exp(s) dy h^T or dB = sum kept x lam^T. On the way it
makes what the decays need: E_i = exp(s_i) (h C_i) . dy_i, and exp(S) <lam, h>.

The recurrence over chunks is the paper's "low-rank blocks" (arXiv 2405.21060, section 6): h <- exp(S) h + sum over j of
exp(S - s_j) dt_j x_j B_j^T, and backwards lam <- exp(S) lam + sum over i of exp(s_i) dy_i C_i^T.
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on, pieces
from .math import wide
from .shapes import STATE_TOKENS, ScanInputs, border_state
from .ssd_decay import Decays, decays
from .tiles import opened, stack, tiles

STATES = TunableLaunch(
    "scan_states.STATES", Launch(warps=8, stages=2, block=128), few_stages=3
)  # block: numbers of the state


@triton.jit
def _states(
    x, b, shares, enters, states, first_state, last_state,
    tokens, heads, group_heads,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BACKWARDS: tl.constexpr,
    KEEPS: tl.constexpr, ENTERS: tl.constexpr, HANDS_ON: tl.constexpr,
):  # fmt: skip
    x, b = opened(x), opened(b)
    if KEEPS:
        states = opened(states)
    slices: tl.constexpr = STATE // BLOCK
    head = (tl.program_id(0) // slices) % heads
    batch = tl.program_id(0) // (slices * heads)
    n = (tl.program_id(0) % slices) * BLOCK
    row = tl.arange(0, CHUNK)
    chunks = tl.cdiv(tokens, CHUNK)
    line = (wide(batch) * heads + head) * chunks * CHUNK
    border = wide(batch * heads + head) * WIDTH * STATE
    border += tl.arange(0, WIDTH)[None, :] * STATE + (n + tl.arange(0, BLOCK))[:, None]
    if ENTERS:
        state = tl.load(first_state + border)
    else:
        state = tl.zeros([BLOCK, WIDTH], tl.float32)
    for number in range(chunks):
        chunk = chunks - 1 - number if BACKWARDS else number
        start = chunk * CHUNK
        x_tile = x.load([batch, start, head * WIDTH]).reshape(CHUNK, WIDTH)
        b_tile = b.load([batch, start, (head // group_heads) * STATE + n]).reshape(CHUNK, BLOCK)
        share = tl.load(shares + line + start + row)
        carry = tl.load(enters + line + tl.minimum(start + CHUNK, tokens) - 1)
        if KEEPS:
            states.store([((batch * chunks + chunk) * heads + head) * STATE + n, 0], state.to(x_tile.dtype))
        added = (x_tile.to(tl.float32) * share[:, None]).to(x_tile.dtype)
        state = tl.dot(tl.trans(b_tile), added, acc=state * carry, input_precision="tf32x3")
    if HANDS_ON:
        tl.store(last_state + border, state)


@triton.jit
def state_gradients(
    unit, part, x, dy, c, states, lams, enters, kepts, arrivals, through, sums_of_heads,
    tokens, heads, bundles, batches, group_heads,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, SLOTS: tl.constexpr,
    ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Of ROWS tokens of a chunk, the `part` // 2-th so many: by `part` % 2 dB or dC. `unit` is chunk and bundle."""
    strips: tl.constexpr = 4  # of rows: see ssd_pairs.py
    chunks = tl.cdiv(tokens, CHUNK)
    of_c = part % 2
    bundle = unit % bundles
    chunk = (unit // bundles) % chunks
    batch = unit // (bundles * chunks)
    start = chunk * CHUNK + part // 2 * ROWS
    row = tl.arange(0, ROWS)
    spot = (batch * chunks + chunk) * heads + bundle * HEADS
    line = (wide(batch) * heads + bundle * HEADS) * chunks * CHUNK
    slot = tl.arange(0, SLOTS)
    lines = line + slot * chunks * CHUNK
    live = slot < HEADS
    out = tl.zeros([ROWS, STATE], tl.float32)
    if of_c:
        c_tile = c.load([batch, start, (bundle * HEADS // group_heads) * STATE]).reshape(ROWS, STATE)
        arrived = tl.zeros([ROWS, SLOTS], tl.float32)
        for number in tl.range(0, HEADS, num_stages=STAGES):
            dy_tile = dy.load([batch, start, (bundle * HEADS + number) * WIDTH]).reshape(ROWS, WIDTH)
            state = states.load([(spot + number) * STATE, 0])
            enter = tl.load(enters + line + start + row)
            wide_dy = dy_tile.to(tl.float32) * enter[:, None]
            from_state = tl.dot(c_tile, state, input_precision="tf32x3")
            arrived = tl.where(slot[None, :] == number, tl.sum(from_state * wide_dy, 1)[:, None], arrived)
            out = tl.dot(wide_dy.to(dy_tile.dtype), tl.trans(state), acc=out, input_precision="tf32x3")
            line += chunks * CHUNK
        tl.store(arrivals + lines[None, :] + (start + row)[:, None], arrived, mask=live[None, :])
    else:
        met = tl.zeros([strips, SLOTS], tl.float32)
        for number in tl.range(0, HEADS, num_stages=STAGES):
            x_tile = x.load([batch, start, (bundle * HEADS + number) * WIDTH]).reshape(ROWS, WIDTH)
            lam = lams.load([(spot + number) * STATE, 0])
            kept = tl.load(kepts + line + start + row)
            if part // 2 == 0:
                state = states.load([(spot + number) * STATE, 0])
                shared = tl.reshape(lam.to(tl.float32) * state.to(tl.float32), [strips, STATE // strips, WIDTH])
                met = tl.where(slot[None, :] == number, tl.sum(tl.sum(shared, 2), 1)[:, None], met)
            added = (x_tile.to(tl.float32) * kept[:, None]).to(x_tile.dtype)
            out = tl.dot(added, tl.trans(lam), acc=out, input_precision="tf32x3")
            line += chunks * CHUNK
        if part // 2 == 0:
            carry = tl.load(enters + lines + tl.minimum((chunk + 1) * CHUNK, tokens) - 1, mask=live, other=0.0)
            tl.store(through + spot + slot, carry * tl.sum(met, 0), mask=live)
    place = ((wide(of_c) * bundles + bundle) * batches + batch) * tokens + start + row
    column = tl.arange(0, STATE)
    tl.store(sums_of_heads + place[:, None] * STATE + column[None, :], out, mask=(start + row < tokens)[:, None])


def states(
    x: Tensor,
    b: Tensor,
    shares: Tensor,
    decays: Decays,
    chunk: int,
    *,
    backwards: bool,
    first: Tensor | None = None,
    last: Tensor | None = None,
    keep: bool = True,
) -> Tensor:
    """The state (or, from dy, C and `enter`, its gradient) that each chunk meets.

    Args:
        first: What the chunk met first begins with, as `shapes.border_state`; None for zeros.
        last: Where the state behind the chunk met last is written to.
        keep: Write what each chunk meets; else the result is empty.

    Returns:
        (batch, chunks, heads, state, head_dim) in the dtype of x.
    """
    batch, tokens, heads, width = x.shape
    groups, size = b.shape[2:]
    block = min(STATES.block, size)
    programs = batch * heads * (size // block)
    out = x.new_empty((batch, pieces(tokens, chunk), heads, size, width) if keep else (0,))
    with on(x):
        _states[(programs,)](
            tiles(x, chunk, width), tiles(b, chunk, block), shares, decays.enter,
            stack(out, block) if keep else None, first, last, tokens, heads, heads // groups,
            CHUNK=chunk, STATE=size, WIDTH=width, BLOCK=block, BACKWARDS=backwards,
            KEEPS=keep, ENTERS=first is not None, HANDS_ON=last is not None,
            **STATES.options(x, programs),
        )  # fmt: skip
    return out


def passing(inputs: ScanInputs, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What these tokens make of a state that passes over them: what they add to it, `shapes.border_state`, and how much
    of it they let through, (batch, heads). With the gradient of y: of a state's gradient, which passes from the right
    to the left."""
    decay = decays(inputs, STATE_TOKENS)
    added = border_state(inputs.x, inputs.B.shape[-1])
    if grad is None:
        states(inputs.x, inputs.B, decay.kept, decay, STATE_TOKENS, backwards=False, last=added, keep=False)
    else:
        states(grad, inputs.C, decay.enter, decay, STATE_TOKENS, backwards=True, last=added, keep=False)
    return added, decay.carry(inputs.x.shape[1], STATE_TOKENS).prod(-1)
