"""The states at the borders of chunks, and the gradients that flow through them.

`states` walks the chunks once for each head and keeps what each chunk meets: forwards h, the state before the chunk,
made again from x and B (cheaper than keeping it from the forward); backwards lam, the gradient of the state after the
chunk, from dy and C: the same code, mirrored.

`state_gradients` is a product of matrices with the heads inside the sum: a program owns one chunk and some heads, and
sums in registers either dC = sum exp(s) dy h^T or dB = sum kept x lam^T. On the way it makes what the decays need:
E_i = exp(s_i) (h C_i) . dy_i, and exp(S) <lam, h>.

The recurrence over chunks is the paper's "low-rank blocks" (arXiv 2405.21060, section 6): h <- exp(S) h + sum over j of
exp(S - s_j) dt_j x_j B_j^T, and backwards lam <- exp(S) lam + sum over i of exp(s_i) dy_i C_i^T.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on
from .math import wide
from .shapes import STATE_TOKENS, ScanInputs, border_state
from .ssd_decay import Decays, decays
from .tiles import opened, stack, tiles

STATES = TunableLaunch(
    "scan_states.STATES", Launch(warps=8, stages=2, block=128), few_stages=3
)  # block: numbers of the state
GRADIENTS = TunableLaunch(
    "scan_states.GRADIENTS", Launch(warps=8, stages=3, block=16)
)  # block: heads a program sums over


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
def _state_gradients(
    x, dy, c, states, lams, enters, kepts, arrivals, through, sums_of_heads,
    tokens, heads, bundles, batches, group_heads,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    x, dy, c, states, lams = opened(x), opened(dy), opened(c), opened(states), opened(lams)
    chunks = tl.cdiv(tokens, CHUNK)
    of_c = tl.program_id(0) % 2
    bundle = (tl.program_id(0) // 2) % bundles
    chunk = (tl.program_id(0) // (2 * bundles)) % chunks
    batch = tl.program_id(0) // (2 * bundles * chunks)
    start = chunk * CHUNK
    row = tl.arange(0, CHUNK)
    spot = (batch * chunks + chunk) * heads + bundle * HEADS
    line = (wide(batch) * heads + bundle * HEADS) * chunks * CHUNK + start
    end = tl.minimum(CHUNK, tokens - start) - 1
    out = tl.zeros([CHUNK, STATE], tl.float32)
    if of_c:
        c_tile = c.load([batch, start, (bundle * HEADS // group_heads) * STATE]).reshape(CHUNK, STATE)
        for number in range(HEADS):
            dy_tile = dy.load([batch, start, (bundle * HEADS + number) * WIDTH]).reshape(CHUNK, WIDTH)
            state = states.load([(spot + number) * STATE, 0])
            enter = tl.load(enters + line + row)
            wide_dy = dy_tile.to(tl.float32) * enter[:, None]
            from_state = tl.dot(c_tile, state, input_precision="tf32x3")
            tl.store(arrivals + line + row, tl.sum(from_state * wide_dy, 1))
            out = tl.dot(wide_dy.to(dy_tile.dtype), tl.trans(state), acc=out, input_precision="tf32x3")
            line += chunks * CHUNK
    else:
        for number in range(HEADS):
            x_tile = x.load([batch, start, (bundle * HEADS + number) * WIDTH]).reshape(CHUNK, WIDTH)
            lam = lams.load([(spot + number) * STATE, 0])
            state = states.load([(spot + number) * STATE, 0])
            kept = tl.load(kepts + line + row)
            carry = tl.load(enters + line + end)
            shared = tl.sum(tl.sum(lam.to(tl.float32) * state.to(tl.float32), 1), 0)
            tl.store(through + spot + number, carry * shared)
            added = (x_tile.to(tl.float32) * kept[:, None]).to(x_tile.dtype)
            out = tl.dot(added, tl.trans(lam), acc=out, input_precision="tf32x3")
            line += chunks * CHUNK
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
    out = x.new_empty((batch, triton.cdiv(tokens, chunk), heads, size, width) if keep else (0,))
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


def state_gradients(
    inputs: ScanInputs, grad: Tensor, decay: Decays, states: Tensor, lams: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(dB and dC as far as they go through states, arrivals E, through); all float32.

    The first is (2, bundles of heads, batch, tokens, state), still to be summed over a group's; arrivals is laid out
    like the decays; through: (batch, chunks, heads).
    """
    batch, tokens, heads, width = inputs.x.shape
    size = inputs.B.shape[-1]
    together = bundled(inputs.group_heads, GRADIENTS.block)
    bundles = heads // together
    out = torch.empty((2, bundles, batch, tokens, size), dtype=torch.float32, device=grad.device)
    arrivals = torch.empty_like(decay.sums)
    through = torch.empty(states.shape[:3], dtype=torch.float32, device=grad.device)
    _state_gradients[(batch * states.shape[1] * bundles * 2,)](
        tiles(inputs.x, chunk, width), tiles(grad, chunk, width), tiles(inputs.C, chunk, size),
        stack(states, size), stack(lams, size), decay.enter, decay.kept, arrivals, through, out,
        tokens, heads, bundles, batch, inputs.group_heads,
        CHUNK=chunk, STATE=size, WIDTH=width, HEADS=together, **GRADIENTS.options(grad),
    )  # fmt: skip
    return out, arrivals, through


def bundled(group_heads: int, wanted: int) -> int:
    """Heads of a bundle: the largest number, at most `wanted`, that divides those of a group."""
    return next(size for size in range(min(wanted, group_heads), 0, -1) if group_heads % size == 0)
