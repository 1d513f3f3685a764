"""The decays of the scan, made once for all its kernels.

With a_t = A dt_t the logarithm of the decay at token t, every kernel needs exp(a_k + … + a_i) for tokens k … i of one
document and one chunk. It takes the difference of two running sums, clamps it at 0 and raises 2 to it; so the sums are
kept in units of log 2, in float32, and start anew at each document and each chunk.

These are the segment sums of the Mamba-2 paper (arXiv 2405.21060, listing 1, `segsum`), which there fill a matrix a
chunk: differences of running sums lose digits where sums are long, so a sum here is of one chunk at most (128 tokens).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on, pieces
from .math import at_least, at_most, softplus
from .shapes import ScanInputs

DECAYS = TunableLaunch("decay.DECAYS", Launch(warps=4, block=8))  # block: heads
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _restart(starts, sum_before, starts_after, sum_after):
    """Two neighbouring stretches as one: the sum begins anew where the later stretch holds a start."""
    return starts | starts_after, tl.where(starts_after != 0, sum_after, sum_before + sum_after)


@triton.jit
def _later(a, b):
    return tl.maximum(a, b)


@triton.jit
def _decays(
    dt, bias, a_log, documents, entering, steps, sums, enter, kept, firsts,
    tokens, heads, chunks, dt_batch, dt_token, least, largest,
    CHUNK: tl.constexpr, HEADS: tl.constexpr, ENTERS: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    row = tl.arange(0, CHUNK)
    token = chunk * CHUNK + row
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    here = (head < heads)[None, :]
    live = (token < tokens)[:, None] & here
    raw = tl.load(dt + batch * dt_batch + token.to(tl.int64)[:, None] * dt_token + head[None, :], mask=live, other=0.0)
    raw = raw.to(tl.float32) + tl.load(bias + head, mask=head < heads, other=0.0).to(tl.float32)[None, :]
    rate = -tl.exp(tl.load(a_log + head, mask=head < heads, other=0.0).to(tl.float32)) * LOG2_E
    if LIMITED:
        raw = at_least(at_most(raw, largest), least)
    step = tl.where(live, softplus(raw), 0.0)
    documents += batch * tokens
    own = tl.load(documents + tl.minimum(token, tokens - 1))
    before = tl.load(documents + chunk * CHUNK - 1, mask=chunk > 0, other=-1)
    if ENTERS:
        before = tl.where(chunk > 0, before, tl.load(entering + batch))
    last = tl.load(documents + tl.minimum(chunk * CHUNK + CHUNK, tokens) - 1)
    previous = tl.load(documents + tl.minimum(token, tokens) - 1, mask=token > 0, other=-1)
    begins = ((own != previous) | (row == 0)).to(tl.int32)
    flags = tl.broadcast_to(begins[:, None], [CHUNK, HEADS])
    _, total = tl.associative_scan((flags, step * rate[None, :]), 0, _restart)
    end = tl.sum(tl.where((row == CHUNK - 1)[:, None], total, 0.0), 0)
    leave = tl.where((own == last)[:, None], tl.exp2(at_most(end[None, :] - total, 0.0)), 0.0)
    place = (batch * heads + head[None, :]) * chunks * CHUNK + token[:, None]
    tl.store(steps + place, step, mask=here)
    tl.store(sums + place, total, mask=here)
    tl.store(enter + place, tl.where((own == before)[:, None], tl.exp2(total), 0.0), mask=here)
    tl.store(kept + place, step * leave, mask=here)
    if tl.program_id(1) == 0:
        tl.store(firsts + batch * chunks * CHUNK + token, tl.associative_scan(begins * row, 0, _later))


class Decays(NamedTuple):
    """float32 (batch, heads, chunks * chunk), filled up with steps of zero behind the last token; firsts without heads.
    The four of float32 lie one behind the other, in this order: ssd_forward_hopper.py is given the first.

    steps: softplus; sums: of log2-decays within chunk and document; enter: what is left at a token of the state before
    the chunk, for the first chunk of the one that entered; kept: how much of a token's input is in the state after the
    chunk, like enter 0 where a document begins between; firsts: int32, the place in the chunk where the token's
    document begins.
    """

    steps: Tensor
    sums: Tensor
    enter: Tensor
    kept: Tensor
    firsts: Tensor

    def carry(self, tokens: int, chunk: int) -> Tensor:
        """How much of a state passes over each chunk: (batch, heads, chunks)."""
        ends = torch.arange(chunk - 1, self.enter.shape[-1], chunk, device=self.enter.device).clamp(max=tokens - 1)
        return self.enter[..., ends]


def decays(inputs: ScanInputs, chunk: int) -> Decays:
    """The decays for kernels that work in chunks of so many tokens."""
    batch, tokens, heads = inputs.dt.shape
    chunks = pieces(tokens, chunk)
    steps, sums, enter, kept = torch.empty(
        (4, batch, heads, chunks * chunk), dtype=torch.float32, device=inputs.dt.device
    ).unbind(0)
    firsts = torch.empty((batch, chunks * chunk), dtype=torch.int32, device=inputs.dt.device)
    limits = inputs.raw_limits
    result = Decays(steps, sums, enter, kept, firsts)
    with on(inputs.dt):
        _decays[(batch * chunks, pieces(heads, DECAYS.block))](
            inputs.dt, inputs.dt_bias, inputs.A_log, inputs.documents, inputs.document_in, *result,
            tokens, heads, chunks, *inputs.dt.stride()[:2], *(limits or (0.0, 0.0)),
            CHUNK=chunk, HEADS=DECAYS.block, ENTERS=inputs.document_in is not None, LIMITED=limits is not None,
            **DECAYS.options(),
        )  # fmt: skip
    return result
