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

from .launch import Launch, TunableLaunch
from .math import wide
from .shapes import ScanInputs
from .ssd_decay import Decays
from .tiles import opened, stack, tiles

STATES = TunableLaunch("scan_states.STATES", Launch(warps=8, stages=2, block=128))  # block: numbers of the state
GRADIENTS = TunableLaunch(
    "scan_states.GRADIENTS", Launch(warps=8, stages=3, block=16)
)  # block: heads a program sums over


@triton.jit
def _states(
    x, b, shares, enters, states,
    tokens, heads,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BACKWARDS: tl.constexpr,
):  # fmt: skip
    x, b, states = opened(x), opened(b), opened(states)
    slices: tl.constexpr = STATE // BLOCK
    head = (tl.program_id(0) // slices) % heads
    batch = tl.program_id(0) // (slices * heads)
    n = (tl.program_id(0) % slices) * BLOCK
    row = tl.arange(0, CHUNK)
    chunks = tl.cdiv(tokens, CHUNK)
    line = (wide(batch) * heads + head) * chunks * CHUNK
    state = tl.zeros([BLOCK, WIDTH], tl.float32)
    for number in range(chunks):
        chunk = chunks - 1 - number if BACKWARDS else number
        start = chunk * CHUNK
        x_tile = x.load([batch, start, head * WIDTH]).reshape(CHUNK, WIDTH)
        b_tile = b.load([batch, start, n]).reshape(CHUNK, BLOCK)
        share = tl.load(shares + line + start + row)
        carry = tl.load(enters + line + tl.minimum(start + CHUNK, tokens) - 1)
        states.store([((batch * chunks + chunk) * heads + head) * STATE + n, 0], state.to(x_tile.dtype))
        added = (x_tile.to(tl.float32) * share[:, None]).to(x_tile.dtype)
        state = tl.dot(tl.trans(b_tile), added, acc=state * carry, input_precision="tf32x3")


@triton.jit
def _state_gradients(
    x, dy, c, states, lams, enters, kepts, arrivals, through, sums_of_heads,
    tokens, heads, groups, batches,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    x, dy, c, states, lams = opened(x), opened(dy), opened(c), opened(states), opened(lams)
    chunks = tl.cdiv(tokens, CHUNK)
    of_c = tl.program_id(0) % 2
    group = (tl.program_id(0) // 2) % groups
    chunk = (tl.program_id(0) // (2 * groups)) % chunks
    batch = tl.program_id(0) // (2 * groups * chunks)
    start = chunk * CHUNK
    row = tl.arange(0, CHUNK)
    spot = (batch * chunks + chunk) * heads + group * HEADS
    line = (wide(batch) * heads + group * HEADS) * chunks * CHUNK + start
    end = tl.minimum(CHUNK, tokens - start) - 1
    out = tl.zeros([CHUNK, STATE], tl.float32)
    if of_c:
        c_tile = c.load([batch, start, 0]).reshape(CHUNK, STATE)
        for number in range(HEADS):
            dy_tile = dy.load([batch, start, (group * HEADS + number) * WIDTH]).reshape(CHUNK, WIDTH)
            state = states.load([(spot + number) * STATE, 0])
            enter = tl.load(enters + line + row)
            wide_dy = dy_tile.to(tl.float32) * enter[:, None]
            from_state = tl.dot(c_tile, state, input_precision="tf32x3")
            tl.store(arrivals + line + row, tl.sum(from_state * wide_dy, 1))
            out = tl.dot(wide_dy.to(dy_tile.dtype), tl.trans(state), acc=out, input_precision="tf32x3")
            line += chunks * CHUNK
    else:
        for number in range(HEADS):
            x_tile = x.load([batch, start, (group * HEADS + number) * WIDTH]).reshape(CHUNK, WIDTH)
            lam = lams.load([(spot + number) * STATE, 0])
            state = states.load([(spot + number) * STATE, 0])
            kept = tl.load(kepts + line + row)
            carry = tl.load(enters + line + end)
            shared = tl.sum(tl.sum(lam.to(tl.float32) * state.to(tl.float32), 1), 0)
            tl.store(through + spot + number, carry * shared)
            added = (x_tile.to(tl.float32) * kept[:, None]).to(x_tile.dtype)
            out = tl.dot(added, tl.trans(lam), acc=out, input_precision="tf32x3")
            line += chunks * CHUNK
    place = ((wide(of_c) * groups + group) * batches + batch) * tokens + start + row
    column = tl.arange(0, STATE)
    tl.store(sums_of_heads + place[:, None] * STATE + column[None, :], out, mask=(start + row < tokens)[:, None])


def states(x: Tensor, b: Tensor, shares: Tensor, decays: Decays, chunk: int, *, backwards: bool) -> Tensor:
    """The state (or, from dy, C and `enter`, its gradient) that each chunk meets.

    (batch, chunks, heads, state, head_dim) in the dtype of x.
    """
    batch, tokens, heads, width = x.shape
    size = b.shape[-1]
    block = min(STATES.block, size)
    out = torch.empty((batch, triton.cdiv(tokens, chunk), heads, size, width), dtype=x.dtype, device=x.device)
    _states[(batch * heads * (size // block),)](
        tiles(x, chunk, width), tiles(b, chunk, block), shares, decays.enter, stack(out, block), tokens, heads,
        CHUNK=chunk, STATE=size, WIDTH=width, BLOCK=block, BACKWARDS=backwards,
        **STATES.options(x),
    )  # fmt: skip
    return out


def state_gradients(
    inputs: ScanInputs, grad: Tensor, decays: Decays, states: Tensor, lams: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(dB and dC as far as they go through states, arrivals E, through); all float32.

    The first is (2, groups of heads, batch, tokens, state), still to be summed over the groups; arrivals is laid out
    like the decays; through: (batch, chunks, heads).
    """
    batch, tokens, heads, width = inputs.x.shape
    size = inputs.B.shape[-1]
    together = grouped(heads, GRADIENTS.block)
    groups = heads // together
    out = torch.empty((2, groups, batch, tokens, size), dtype=torch.float32, device=grad.device)
    arrivals = torch.empty_like(decays.sums)
    through = torch.empty(states.shape[:3], dtype=torch.float32, device=grad.device)
    _state_gradients[(batch * states.shape[1] * groups * 2,)](
        tiles(inputs.x, chunk, width), tiles(grad, chunk, width), tiles(inputs.C, chunk, size),
        stack(states, size), stack(lams, size), decays.enter, decays.kept, arrivals, through, out,
        tokens, heads, groups, batch,
        CHUNK=chunk, STATE=size, WIDTH=width, HEADS=together, **GRADIENTS.options(grad),
    )  # fmt: skip
    return out, arrivals, through


def grouped(heads: int, wanted: int) -> int:
    """The largest number of heads, at most `wanted`, that divides them all."""
    return next(size for size in range(min(wanted, heads), 0, -1) if heads % size == 0)
