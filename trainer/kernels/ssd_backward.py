"""The SSD scan backward in Triton, no atomics: the same bits every time.

The reverse of the block decomposition in ssd_forward.py, derived by hand; `reference.scan_backward` is the same in
plain torch, and the tests hold that against autograd of the recurrence. In its steps:

1. `states` backwards (ssd_states.py): lam, the gradient of the state after each chunk of STATE_TOKENS, from that of
   the last one down to that of the one that entered; and forwards, h before each, where the forward did not keep it;
2. `chunk_gradients` (ssd_chunks.py): the gradient of the scores C B^T, and of the decays between two tokens of a chunk
   (ssd_pairs.py); dx (ssd_dx.py); dB and dC as far as they go through states (ssd_states.py);
3. `_join` adds the two parts of dB and dC; `_finish` turns pair sums into the gradient of the decay, then that of dt.

The gradient of a decay a_k is the sum of all paths from a token before k to one at or after k. Inside the chunk it
is a running sum of (what starts at j) - (what ends at j), both summed in float32 from the very same products: no
difference of large rounded numbers, as in the shortcut through y.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on, pieces
from .math import sigmoid, wide
from .shapes import STATE_TOKENS, GradLast, ScanGrads, ScanInputs, arrived
from .ssd_chunks import chunk_gradients
from .ssd_decay import decays
from .ssd_pairs import all_scores
from .ssd_states import states
from .tiles import opened, tiles

CHUNK = STATE_TOKENS
JOIN = TunableLaunch("scan_backward.JOIN", Launch(warps=4, stages=3))  # stages: sums of bundles on their way
FINISH = TunableLaunch("scan_backward.FINISH", Launch(warps=8, block=32))  # block: heads


@triton.jit
def _add_product(
    total, dscores, bundles, step, seen, other, TRANSPOSED: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr
):
    """total + (sum over bundles, `step` apart, of a quarter of dscores, where seen) @ other."""
    row = tl.arange(0, BLOCK)
    weights = tl.zeros([BLOCK, BLOCK], tl.float32)
    for bundle in tl.range(0, bundles, num_stages=STAGES):
        weights += tl.load(dscores + bundle * step + row[:, None] * 2 * BLOCK + row[None, :])
    weights = tl.where(seen, weights, 0.0)
    if TRANSPOSED:
        weights = tl.trans(weights)
    coarse = weights.to(other.dtype)
    total = tl.dot(coarse, other, acc=total, input_precision="tf32x3")
    fine = (weights - coarse.to(tl.float32)).to(other.dtype)  # what the rounding left out: this product is small
    return tl.dot(fine, other, acc=total, input_precision="tf32x3")


@triton.jit
def _join(
    b, c, firsts, dscores, parts, db, dc,
    tokens, chunks, batches, groups, token_bundles, state_bundles,
    BLOCK: tl.constexpr, STATE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    b, c, db, dc = opened(b), opened(c), opened(db), opened(dc)
    of_c = tl.program_id(0) % 2
    half = (tl.program_id(0) // 2) % 2
    group = (tl.program_id(0) // 4) % groups
    chunk = (tl.program_id(0) // (4 * groups)) % chunks
    batch = tl.program_id(0) // (4 * groups * chunks)
    column = group * STATE
    start = (chunk * 2 + half) * BLOCK
    row = tl.arange(0, BLOCK)
    live = (start + row < tokens)[:, None]
    total = tl.zeros([BLOCK, STATE], tl.float32)
    for number in tl.range(0, state_bundles, num_stages=STAGES):
        bundle = (wide(of_c) * groups + group) * state_bundles + number
        place = (bundle * batches + batch) * tokens + start + row
        total += tl.load(parts + place[:, None] * STATE + tl.arange(0, STATE)[None, :], mask=live, other=0.0)
    j, i = row[:, None], row[None, :]
    firsts += (wide(batch) * chunks + chunk) * 2 * BLOCK
    own_seen = (j <= i) & (half * BLOCK + j >= tl.load(firsts + half * BLOCK + row)[None, :])
    far_seen = j >= tl.load(firsts + BLOCK + row)[None, :]
    step = wide(batches) * chunks * 4 * BLOCK * BLOCK
    dscores += group * token_bundles * step
    dscores += (wide(batch) * chunks + chunk) * 4 * BLOCK * BLOCK  # from here, sources in rows, readers in columns
    own = dscores + half * (2 * BLOCK + 1) * BLOCK
    if of_c:
        tile = b.load([batch, start, column]).reshape(BLOCK, STATE)
        total = _add_product(total, own, token_bundles, step, own_seen, tile, True, BLOCK, STAGES)
        if half == 1:
            tile = b.load([batch, start - BLOCK, column]).reshape(BLOCK, STATE)
            total = _add_product(total, dscores + BLOCK, token_bundles, step, far_seen, tile, True, BLOCK, STAGES)
        dc.store([batch, start, column], total.to(tile.dtype)[None])
    else:
        tile = c.load([batch, start, column]).reshape(BLOCK, STATE)
        total = _add_product(total, own, token_bundles, step, own_seen, tile, False, BLOCK, STAGES)
        if half == 0:
            tile = c.load([batch, start + BLOCK, column]).reshape(BLOCK, STATE)
            total = _add_product(total, dscores + BLOCK, token_bundles, step, far_seen, tile, False, BLOCK, STAGES)
        db.store([batch, start, column], total.to(tile.dtype)[None])


@triton.jit
def _finish(
    dt, bias, a_log, documents, steps, starts, stops, skips, arrivals, through, ddt, dparameters,
    tokens, heads, chunks, dt_batch, dt_token, ddt_batch, ddt_token, least, largest,
    CHUNK: tl.constexpr, HEADS: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // chunks).to(tl.int64)
    batches = tl.num_programs(0) // chunks
    chunk = tl.program_id(0) % chunks
    row = tl.arange(0, CHUNK)
    token = chunk * CHUNK + row
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    here = head < heads
    live = (token < tokens)[:, None] & here[None, :]
    place = (batch * heads + head[None, :]) * chunks * CHUNK + token[:, None]
    own = tl.load(documents + batch * tokens + token, mask=token < tokens, other=-2)
    same = own[:, None] == own[None, :]
    past = (same & (row[:, None] > row[None, :])).to(tl.float32)
    ahead = (same & (row[:, None] <= row[None, :])).to(tl.float32)
    table = wide(batches) * heads * chunks * CHUNK
    second = (row >= CHUNK // 2)[:, None]  # block of the chunk
    begun = tl.load(starts + place, mask=live & ~second, other=0.0)
    begun += tl.load(starts + table + place, mask=live, other=0.0)
    begun += tl.load(starts + 2 * table + place, mask=live, other=0.0)
    ended = tl.load(stops + place, mask=live, other=0.0)
    ended += tl.load(stops + table + place, mask=live & second, other=0.0)
    da = tl.dot(past, begun - ended, input_precision="tf32x3")
    da = tl.dot(ahead, tl.load(arrivals + place, mask=live, other=0.0), acc=da, input_precision="tf32x3")
    spot = tl.program_id(0).to(tl.int64) * heads + head
    da += tl.load(through + spot, mask=here, other=0.0)[None, :]
    step = tl.load(steps + place, mask=live, other=0.0)
    rate = -tl.exp(tl.load(a_log + head, mask=here, other=0.0).to(tl.float32))
    raw = tl.load(dt + batch * dt_batch + token.to(tl.int64)[:, None] * dt_token + head[None, :], mask=live, other=0.0)
    raw = raw.to(tl.float32) + tl.load(bias + head, mask=here, other=0.0).to(tl.float32)[None, :]
    slope = sigmoid(raw)
    # dt_j (q_j . x_j) is what starts at j. It is wanted without dt_j and times softplus' slope: dt itself where small.
    direct = begun * tl.where(step > 1e-6, slope / tl.where(step > 1e-6, step, 1.0), 1.0)
    result = tl.where(live, direct + rate[None, :] * da * slope, 0.0)
    if LIMITED:
        result = tl.where((raw < least) | (raw > largest), 0.0, result)
    tl.store(
        ddt + batch * ddt_batch + token.to(tl.int64)[:, None] * ddt_token + head[None, :],
        result.to(ddt.dtype.element_ty),
        mask=live,
    )
    skip = tl.load(skips + place, mask=live, other=0.0)
    dparameters += tl.program_id(0).to(tl.int64) * 3 * heads + head
    tl.store(dparameters, rate * tl.sum(da * step, 0), mask=here)
    tl.store(dparameters + heads, tl.sum(skip, 0), mask=here)
    tl.store(dparameters + 2 * heads, tl.sum(result, 0), mask=here)


def scan_backward(
    inputs: ScanInputs,
    kept: Tensor,
    grad: Tensor,
    out: ScanGrads,
    grad_last: GradLast = None,
    out_state: Tensor | None = None,
) -> Tensor:
    """Write the large gradients to `out`, that of the state that entered to `out_state`; return the table for those of
    A_log, D and dt_bias, `column_sums`. grad: like x, rows contiguous. kept: the states of the forward, or empty.
    grad_last: of the state after the last token."""
    with on(inputs.x):
        return _scan_backward(inputs, kept, grad, out, grad_last, out_state)


def _scan_backward(
    inputs: ScanInputs, kept: Tensor, grad: Tensor, out: ScanGrads, grad_last: GradLast, out_state: Tensor | None
) -> Tensor:
    batch, tokens, heads, _ = inputs.x.shape
    groups, size = inputs.B.shape[2:]
    chunks = pieces(tokens, CHUNK)
    decay = decays(inputs, CHUNK)
    met = kept
    if not kept.numel():
        met = states(inputs.x, inputs.B, decay.kept, decay, CHUNK, backwards=False, first=inputs.state_in)
    scores = all_scores(inputs, decay, CHUNK)
    first = arrived(grad_last)  # not before: until here nothing depends on it
    lams = states(grad, inputs.C, decay.enter, decay, CHUNK, backwards=True, first=first, last=out_state)
    of_chunks = chunk_gradients(inputs, grad, decay, met, lams, scores, out.x)
    options = JOIN.options()
    _join[(batch * chunks * groups * 4,)](
        tiles(inputs.B, CHUNK // 2, size), tiles(inputs.C, CHUNK // 2, size),
        decay.firsts, of_chunks.dscores, of_chunks.states,
        tiles(out.B, CHUNK // 2, size), tiles(out.C, CHUNK // 2, size),
        tokens, chunks, batch, groups, of_chunks.dscores.shape[0] // groups, of_chunks.states.shape[1] // groups,
        BLOCK=CHUNK // 2, STATE=size, STAGES=options["num_stages"], **options,
    )  # fmt: skip
    limits = inputs.raw_limits
    parameters = torch.empty((batch * chunks, 3, heads), dtype=torch.float32, device=grad.device)
    _finish[(batch * chunks, pieces(heads, FINISH.block))](
        inputs.dt, inputs.dt_bias, inputs.A_log, inputs.documents, decay.steps, of_chunks.starts, of_chunks.stops,
        of_chunks.skips, of_chunks.arrivals, of_chunks.through, out.dt, parameters,
        tokens, heads, chunks, *inputs.dt.stride()[:2], *out.dt.stride()[:2], *(limits or (0.0, 0.0)),
        CHUNK=CHUNK, HEADS=FINISH.block, LIMITED=limits is not None, **FINISH.options(),
    )  # fmt: skip
    return parameters
