"""The SSD scan forward in one Triton kernel: the state stays in the registers.

A program owns one head of one sequence (or a slice of the head's channels) and walks the chunks from left to right.
In a chunk, tokens meet tokens through a masked matrix of scores, and the past through the state:

    y = ((C B^T) * L * dt) x  +  exp(s) (C h)  +  D x,      h <- exp(S) h + B^T (exp(S - s) dt x)

This is the block decomposition of the Mamba-2 paper (arXiv 2405.21060, section 6 and listing 1): the first term is its
diagonal blocks, the second and h the blocks below. s sums the log-decays from the start of the document, or of the
chunk (ssd_decay.py), and S is s at the end of the chunk; L_ij = exp(s_i - s_j) for j <= i of one document, else 0.

C B^T is the same for all heads and yet made again by each: the tensor cores have time for it, the memory has none.
Masks stop scores and state at borders of documents. Softplus, sums and states are float32; products take the input's
dtype. On request a program leaves a copy of the state for the backward at every second chunk, as the products took it,
and the last one in float32 for the row that goes on; then that row's programs begin with it.
"""

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, is_hopper, multiprocessors, on
from .math import at_most, wide
from .shapes import STATE_TOKENS, ScanInputs, border_state, kept_states
from .ssd_decay import decays
from .ssd_states import passing
from .tiles import Pointers, opened, tiles

log = logging.getLogger(__name__)

LONG = 8192  # tokens of a row that is worth cutting
CHUNK = 64  # tokens; divides STATE_TOKENS, the chunk of the backward
FORWARD = TunableLaunch("scan_forward.FORWARD", Launch(warps=4, stages=2, block=64))  # block: channels of a head


@triton.jit
def _scan(
    x, b, c, steps, sums, enters, kepts, firsts, d, y, states, first_state, last_state,
    tokens, heads, group_heads,
    CHUNK: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EVERY: tl.constexpr,
    ENTERS: tl.constexpr, HANDS_ON: tl.constexpr,
):  # fmt: skip
    x, b, c, y = opened(x), opened(b), opened(c), opened(y)
    slices: tl.constexpr = WIDTH // BLOCK
    head = (tl.program_id(0) // slices) % heads
    batch = tl.program_id(0) // (slices * heads)
    own = (tl.program_id(0) % slices) * BLOCK
    channel = head * WIDTH + own
    of_group = (head // group_heads) * STATE
    row = tl.arange(0, CHUNK)
    chunks = tl.cdiv(tokens, CHUNK)
    line = (wide(batch) * heads + head) * chunks * CHUNK
    firsts += wide(batch) * chunks * CHUNK
    skip = tl.load(d + head).to(tl.float32)
    # a state at a border of the row lies as (head_dim, state)
    border = wide(batch * heads + head) * WIDTH * STATE
    border += (own + tl.arange(0, BLOCK))[None, :] * STATE + tl.arange(0, STATE)[:, None]
    if ENTERS:
        state = tl.load(first_state + border)
    else:
        state = tl.zeros([STATE, BLOCK], tl.float32)
    for chunk in range(chunks):
        start = chunk * CHUNK
        x_tile = x.load([batch, start, channel]).reshape(CHUNK, BLOCK)
        b_tile = b.load([batch, start, of_group]).reshape(CHUNK, STATE)
        c_tile = c.load([batch, start, of_group]).reshape(CHUNK, STATE)
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
    if HANDS_ON:
        tl.store(last_state + border, state)


def scan_forward(inputs: ScanInputs, keep: bool = False, hand_on: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """y: (batch, tokens, heads, head_dim), contiguous; `shapes.kept_states`; and the state after the last token."""
    if inputs.x.shape[1] >= LONG and inputs.x.shape[1] % (2 * STATE_TOKENS) == 0 and _too_few(inputs):
        y, states, last = _scan_forward(_halved(inputs), keep, hand_on)
        return y.view(inputs.x.shape), states.flatten(0, 1)[None] if keep else states, last[1:] if hand_on else last
    return _scan_forward(inputs, keep, hand_on)


def _too_few(inputs: ScanInputs) -> bool:
    """Of one row, there is at most one program for a multiprocessor, and nothing to do while that one waits."""
    batch, _, heads, width = inputs.x.shape
    return batch == 1 and heads * (width // launch_of(inputs.x)[0]) <= multiprocessors(inputs.x.device)


def launch_of(x: Tensor) -> tuple[int, dict[str, int]]:
    """The channels of a program, and its options: `FORWARD`, but no form that Triton 3.6 compiles to reads of what is
    not there (docs/kernels.md): 16 channels in float32, and 32 in one stage by the copy engine."""
    width, options = x.shape[-1], FORWARD.options(x)
    block = min(FORWARD.block if x.itemsize == 2 else max(FORWARD.block, 32), width)
    if block == 32 and not isinstance(tiles(x, CHUNK, block), Pointers):
        options["num_stages"] = max(options["num_stages"], 2)
    return block, options


@cache
def _of_hopper() -> ModuleType | None:
    """ssd_forward_hopper.py, where Triton's Gluon is one that it knows: it changes from version to version."""
    try:
        return import_module(f"{__package__}.ssd_forward_hopper")
    except (ImportError, AttributeError) as error:
        log.warning("the scan for Hopper GPUs does not know this Triton: %s. The one for all GPUs runs, slower.", error)
        return None


def _in_gluon(x: Tensor, state: int) -> ModuleType | None:
    """Numbers of two bytes, in tiles that fill what Hopper's tensor cores take."""
    fits = x.dtype == torch.bfloat16 and x.shape[-1] % 64 == 0 and state in (64, 128)
    return _of_hopper() if fits and is_hopper(x.device) else None


def _halved(inputs: ScanInputs) -> ScanInputs:
    """One row as two, of which the second goes on from the first: what that hands on is made first, in half the time of
    a scan."""
    half = inputs.x.shape[1] // 2
    x, dt, B, C, A_log, D, dt_bias, documents, state, document, dt_min, dt_max = inputs
    first = ScanInputs(
        *(x[:, :half], dt[:, :half], B[:, :half], C[:, :half], A_log, D, dt_bias, documents[:, :half]),
        *(state, document),
        dt_min=dt_min,
        dt_max=dt_max,
    )
    handed_on, passed = passing(first)
    if state is None or document is None:
        state, document = torch.zeros_like(handed_on), torch.full_like(documents[:, 0], -1)
    handed_on += passed[..., None, None] * state
    x, dt, B, C, documents = (whole.unflatten(1, (2, half)).flatten(0, 1) for whole in (x, dt, B, C, documents))
    owners = torch.cat([document, documents[:1, -1]])
    return ScanInputs(x, dt, B, C, A_log, D, dt_bias, documents, torch.cat([state, handed_on]), owners, dt_min, dt_max)


def _scan_forward(inputs: ScanInputs, keep: bool, hand_on: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, heads, width = inputs.x.shape
    state = inputs.B.shape[-1]
    y = torch.empty((batch, tokens, heads, width), dtype=inputs.x.dtype, device=inputs.x.device)
    block, options = launch_of(inputs.x)
    states = kept_states(inputs.x, state, keep=keep)
    last = border_state(inputs.x, state, wanted=hand_on)
    with on(inputs.x):
        if gluon := _in_gluon(inputs.x, state):
            gluon.scan(inputs, decays(inputs, CHUNK), y, states, last)
            return y, states, last
        _scan[(batch * heads * (width // block),)](
            tiles(inputs.x, CHUNK, block), tiles(inputs.B, CHUNK, state), tiles(inputs.C, CHUNK, state),
            *decays(inputs, CHUNK),
            inputs.D, tiles(y, CHUNK, block), states, inputs.state_in, last, tokens, heads, inputs.group_heads,
            CHUNK=CHUNK, STATE=state, WIDTH=width, BLOCK=block,
            EVERY=STATE_TOKENS // CHUNK if keep else 0,
            ENTERS=inputs.state_in is not None, HANDS_ON=hand_on,
            **options,
        )  # fmt: skip
    return y, states, last
