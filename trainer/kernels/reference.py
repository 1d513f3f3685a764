"""The mathematics, in plain torch: what every kernel must compute, forward and backward, on any device and dtype.

The names are those of docs/kernels.md, the scan is the chunked form of the Mamba-2 paper (arXiv 2405.21060, section 6
and listing 1). Letters of einsum: b sequence, c chunk, q token of a chunk (or i that reads j), g group, r head of a
group, p channel of a head, n number of the state. Work is done in float64 where the input is float64, else in float32.
Nothing here goes through autograd: the backward is written out, and the tests hold it against autograd of the
recurrence.

A document never sees another, not even in a rounding: every sum that could cross a border is taken with the other
documents' terms at exactly zero, so a token's result is the same bits whatever its neighbours hold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, silu, softplus

from .adamw_reference import adamw_step as adamw_step
from .shapes import (
    STATE_TOKENS,
    GradLast,
    MixInputs,
    ScanGrads,
    ScanInputs,
    arrived,
    border_state,
    kept_states,
    split_conv,
    unpack,
)
from .supported import CONV_WIDTH as WIDTH

CHUNK = 64  # tokens; the quadratic part of SSD works inside a chunk, a state is handed from chunk to chunk


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


# ---- causal convolution of width 4, then silu


def _taps(x: Tensor, documents: Tensor) -> list[Tensor]:
    """For each tap the inputs it meets, zero where they lie before the row or in another document."""
    shifts = range(WIDTH - 1, -1, -1)
    moved = [pad(x, (0, 0, shift, 0))[:, : x.shape[1]] for shift in shifts]
    owners = [pad(documents, (shift, 0), value=-1)[:, : x.shape[1]] for shift in shifts]
    return [torch.where((owner == documents)[..., None], m, 0) for m, owner in zip(moved, owners, strict=True)]


def _before_silu(taps: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    total = _wide(bias).expand_as(taps[0])
    for tap, column in zip(taps, _wide(weight).unbind(1), strict=True):
        total = total + tap * column
    return total


def conv_forward(xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor) -> Tensor:
    """silu(causal depthwise convolution + bias); xbc: (batch, tokens, channels), weight: (channels, 4)."""
    return silu(_before_silu(_taps(_wide(xbc), documents), weight, bias)).to(xbc.dtype)


def conv_backward(xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor, grad: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of xbc to `out`; return the table for those of weight and bias, `column_sums`."""
    taps = _taps(_wide(xbc), documents)
    before = _before_silu(taps, weight, bias)
    gate = torch.sigmoid(before)
    inner = _wide(grad) * gate * (1 + before * (1 - gate))
    total = torch.zeros_like(inner)
    for shift, column in zip(range(WIDTH - 1, -1, -1), _wide(weight).unbind(1), strict=True):
        later = pad(inner, (0, 0, 0, shift))[:, shift:]
        owner = pad(documents, (0, shift), value=-1)[:, shift:]
        total = total + torch.where((owner == documents)[..., None], later, 0) * column
    out.copy_(total)
    return torch.stack([*((inner * tap).sum((0, 1)) for tap in taps), inner.sum((0, 1))])[None]


# ---- gated norm


def _by_group(tensor: Tensor, groups: int) -> Tensor:
    parts: Tensor = _wide(tensor).unflatten(-1, (groups, -1))
    return parts


def norm_forward(y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """weight * rms_norm(y * silu(z)) over the last dimension, or over each of so many equal parts of it."""
    gated = _by_group(y, groups) * silu(_by_group(z, groups))
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    return (gated * scale * _by_group(weight, groups)).flatten(-2).to(y.dtype)


def norm_backward(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, grad: Tensor, out_z: Tensor, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Write the gradient of z to `out_z`; return that of y, and the table for that of weight, `column_sums`."""
    wide_y, wide_z, wide_grad = (_by_group(tensor, groups) for tensor in (y, z, grad))
    gate = torch.sigmoid(wide_z)
    gated = wide_y * wide_z * gate
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    normal = gated * scale
    inner = wide_grad * _by_group(weight, groups)
    dgated = scale * (inner - normal * (inner * normal).mean(-1, keepdim=True))
    out_z.copy_((dgated * wide_y * gate * (1 + wide_z * (1 - gate))).flatten(-2))
    return (dgated * wide_z * gate).flatten(-2).to(y.dtype), (wide_grad * normal).flatten(-2).sum((0, 1))[None]


# ---- scan


class _Chunks(NamedTuple):
    """The scan's inputs cut into chunks (batch, chunk, token, …), and what the decay makes of them."""

    x: Tensor
    B: Tensor
    C: Tensor
    step: Tensor  # softplus(dt + bias): (b, c, q, g, r)
    decay: Tensor  # L_ij = exp(s_i - s_j) inside a document, i >= j, else 0: (b, c, g, r, i, j)
    enter: Tensor  # exp(s_i) where the state before the chunk is of token i's document, else 0: (b, c, q, g, r)
    leave: Tensor  # exp(S - s_j) where the state after the chunk is of token j's document, else 0: (b, c, q, g, r)
    carry: Tensor  # exp(S) where one document spans the chunk and the token before it, else 0: (b, c, g, r)
    same: Tensor  # tokens j <= i of one document: (b, c, i, j)


def _cut(tensor: Tensor, tokens: int) -> Tensor:
    """(batch, tokens, …) as (batch, chunks, CHUNK, …), filled up with zeros."""
    missing = -tokens % CHUNK
    filled: Tensor = pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
    return torch.unflatten(filled, 1, (-1, CHUNK))


def _chunks(inputs: ScanInputs) -> _Chunks:
    tokens, heads = inputs.dt.shape[1:]
    raw = _wide(inputs.dt) + _wide(inputs.dt_bias)
    step = _cut(softplus(raw).clamp(inputs.dt_min, inputs.dt_max), tokens)
    missing = -tokens % CHUNK
    documents = torch.cat([inputs.documents, inputs.documents[:, -1:].expand(-1, missing)], 1).unflatten(1, (-1, CHUNK))
    last = documents[:, :, -1]
    before = pad(last, (1, -1), value=-1)
    if inputs.document_in is not None:
        before[:, 0] = inputs.document_in
    earlier = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=step.device).tril()
    same = earlier & (documents[..., :, None] == documents[..., None, :])
    # the sum of the log-decays from the document's start, or the chunk's, to each token
    total = same.to(step.dtype) @ (step * -_wide(inputs.A_log).exp())
    apart = (total[:, :, :, None] - total[:, :, None]).clamp(max=0).exp() * same[..., None]
    end = total[:, :, -1:]
    entering, leaving = documents == before[..., None], documents == last[..., None]
    by_group = (inputs.B.shape[2], heads // inputs.B.shape[2])
    return _Chunks(
        x=_cut(_wide(inputs.x), tokens).unflatten(3, by_group),
        B=_cut(_wide(inputs.B), tokens),
        C=_cut(_wide(inputs.C), tokens),
        step=step.unflatten(3, by_group),
        decay=apart.permute(0, 1, 4, 2, 3).unflatten(2, by_group),
        enter=(total.exp() * entering[..., None]).unflatten(3, by_group),
        # another document's total can lie below its end
        leave=((end - total).clamp(max=0).exp() * leaving[..., None]).unflatten(3, by_group),
        carry=(end[:, :, 0].exp() * (last == before)[..., None]).unflatten(2, by_group),
        same=same,
    )


def _handed_on(added: Tensor, carry: Tensor, begin: Tensor | None, *, backwards: bool) -> tuple[Tensor, Tensor]:
    """The state that each chunk meets, from what each adds to it and how much of it each lets through; and the state
    behind the last one. All (…, g, r, p, n); `begin` is (b, h, p, n), the state that the first one meets."""
    met = torch.empty_like(added)
    state = torch.zeros_like(added[:, 0]) if begin is None else begin.to(added.dtype).view_as(added[:, 0])
    order = range(added.shape[1])
    for chunk in reversed(order) if backwards else order:
        met[:, chunk] = state
        state = state * carry[:, chunk, ..., None, None] + added[:, chunk]
    return met, state


def _states(cut: _Chunks, begin: Tensor | None) -> tuple[Tensor, Tensor]:
    """h before each chunk: (b, c, g, r, p, n); and h after the last."""
    added = torch.einsum("bcqgr,bcqgrp,bcqgn->bcgrpn", cut.leave * cut.step, cut.x, cut.B)
    return _handed_on(added, cut.carry, begin, backwards=False)


def _state_gradients(cut: _Chunks, dy: Tensor, end: Tensor | None) -> tuple[Tensor, Tensor]:
    """lam, the gradient of the state after each chunk, and of the state before the first."""
    added = torch.einsum("bcqgr,bcqgrp,bcqgn->bcgrpn", cut.enter, dy, cut.C)
    return _handed_on(added, cut.carry, end, backwards=True)


def scan_forward(inputs: ScanInputs, keep: bool = False, hand_on: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """y of h_t = exp(A dt_t) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t, with h = 0 where a document starts;
    `shapes.kept_states`; and the state after the last token (`shapes.border_state`), empty unless `hand_on`."""
    cut = _chunks(inputs)
    met, end = _states(cut, inputs.state_in)
    states = kept_states(inputs.x, inputs.B.shape[-1], keep=keep)
    if keep:
        states.copy_(met[:, :: STATE_TOKENS // CHUNK].flatten(2, 3).mT)
    scores = torch.einsum("bcign,bcjgn->bcgij", cut.C, cut.B)[:, :, :, None]
    scores = cut.decay.mul_(scores)  # in place: the largest of all, and read no more
    y = torch.einsum("bcgrij,bcjgr,bcjgrp->bcigrp", scores, cut.step, cut.x).flatten(3, 4)
    y = y + torch.einsum("bcign,bcgrpn,bcigr->bcigrp", cut.C, met, cut.enter).flatten(3, 4)
    y = y + _wide(inputs.D)[:, None] * cut.x.flatten(3, 4)
    last = border_state(inputs.x, inputs.B.shape[-1], wanted=hand_on)
    if hand_on:
        last.copy_(end.flatten(1, 2))
    return y.flatten(1, 2)[:, : inputs.x.shape[1]].to(inputs.x.dtype).contiguous(), states, last


def scan_backward(
    inputs: ScanInputs,
    kept: Tensor,
    grad: Tensor,
    out: ScanGrads,
    grad_last: GradLast = None,
    out_state: Tensor | None = None,
) -> Tensor:
    """Write the large gradients to `out`, that of the state that entered to `out_state`; return the table for those of
    A_log, D and dt_bias, `column_sums`. grad_last: of the state after the last token. `kept` is made anew."""
    tokens = inputs.x.shape[1]
    cut = _chunks(inputs)
    by_group = cut.carry.shape[2:]
    dy = _cut(_wide(grad), tokens).unflatten(3, by_group)
    rate = -_wide(inputs.A_log).exp().unflatten(0, by_group)
    states, _ = _states(cut, inputs.state_in)
    lam, first = _state_gradients(cut, dy, arrived(grad_last))
    if out_state is not None:
        out_state.copy_(first.flatten(1, 2))

    scores = torch.einsum("bcign,bcjgn->bcgij", cut.C, cut.B)[:, :, :, None] * cut.decay  # CB_ij L_ij
    pairs = torch.einsum("bcigrp,bcjgrp->bcgrij", dy, cut.x)
    pairs = pairs * cut.step.permute(0, 1, 3, 4, 2)[..., None, :]  # dt_j W_ij
    from_lam = torch.einsum("bcgrpn,bcjgn,bcjgr->bcjgrp", lam, cut.B, cut.leave)
    q = torch.einsum("bcgrij,bcigrp->bcjgrp", scores, dy) + from_lam
    skip = _wide(inputs.D).unflatten(0, by_group)
    out.x.copy_(_uncut(cut.step[..., None] * q + skip[..., None] * dy, tokens).flatten(2, 3))

    dcb = (cut.decay * pairs).sum(3)
    dC = torch.einsum("bcgij,bcjgn->bcign", dcb, cut.B)
    dC = dC + torch.einsum("bcigr,bcgrpn,bcigrp->bcign", cut.enter, states, dy)
    dB = torch.einsum("bcgij,bcign->bcjgn", dcb, cut.C)
    dB = dB + torch.einsum("bcjgr,bcgrpn,bcjgrp->bcjgn", cut.step * cut.leave, lam, cut.x)
    out.C.copy_(_uncut(dC, tokens))
    out.B.copy_(_uncut(dB, tokens))

    # the gradient of the log-decay a_k: every path from a token before k to a token at or after k
    paths = torch.tril(scores * pairs, diagonal=-1)
    starts = paths.sum(4) - paths.sum(5)  # (b, c, g, r, token): what begins there less what ends there
    starts = starts.permute(0, 1, 4, 2, 3) + cut.step * (cut.x * from_lam).sum(-1)
    ends = cut.enter * (torch.einsum("bcign,bcgrpn->bcigrp", cut.C, states) * dy).sum(-1)
    same = cut.same.to(starts.dtype)
    through = cut.carry * (lam * states).sum((-1, -2))
    da = torch.tril(same, diagonal=-1) @ starts.flatten(3) + same.transpose(2, 3) @ ends.flatten(3)
    da = da.unflatten(3, by_group) + through[:, :, None]

    dstep = (q * cut.x).sum(-1) + rate * da
    raw = _wide(inputs.dt) + _wide(inputs.dt_bias)
    step = softplus(raw)
    inside = (step >= inputs.dt_min) & (step <= inputs.dt_max)
    ddt = _uncut(dstep, tokens).flatten(2) * torch.sigmoid(raw) * inside
    out.dt.copy_(ddt)
    dA_log, dD = rate * (da * cut.step).sum((0, 1, 2)), (dy * cut.x).sum((0, 1, 2, 5))
    return torch.stack([dA_log.flatten(), dD.flatten(), ddt.sum((0, 1))])[None]


def passing(inputs: ScanInputs, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What these tokens make of a state that passes over them: what they add to it, (b, h, p, n), and how much of it
    they let through, (b, h). With the gradient of y: of a state's gradient, which passes from the right to the left."""
    cut = _chunks(inputs)
    if grad is None:
        added = _states(cut, None)[1]
    else:
        dy = _cut(_wide(grad), inputs.x.shape[1]).unflatten(3, cut.carry.shape[2:])
        added = _state_gradients(cut, dy, None)[1]
    return added.flatten(1, 2), cut.carry.flatten(2).prod(1)


def _uncut(tensor: Tensor, tokens: int) -> Tensor:
    return tensor.flatten(1, 2)[:, :tokens]


# ---- parameters


def column_sums(
    parameters: Sequence[Tensor], scan: Tensor, conv: Tensor | None = None, norm: Tensor | None = None
) -> list[Tensor]:
    """The gradients of parameters from tables whose rows are parts of them: in the dtype of each, in memory of its own,
    since outputs of an op must not share any.

    Args:
        parameters: A_log, D, dt_bias; with the tables of convolution and norm all those of a block, `shapes.MixInputs`.
        scan: (rows, 3, heads), of A_log, D and dt_bias.
        conv: (rows, 5, channels), of the four taps and of the bias.
        norm: (rows, inner).
    """
    sums = list(scan.sum(0))
    if conv is not None and norm is not None:
        *taps, bias = conv.sum(0)
        sums = [torch.stack(taps, 1), bias, *sums, norm.sum(0)]
    return [torch.empty_like(one).copy_(of_it) for one, of_it in zip(parameters, sums, strict=True)]


# ---- one token


def step(given: MixInputs, eps: float) -> Tensor:
    """`ops.step`: one token a row, state and halo changed in place."""
    assert given.state_in is not None and given.halo_in is not None
    z, xbc, dt = unpack(given.zxbcdt, given.inner, given.heads)
    window = torch.cat([given.halo_in, xbc], 1)
    convolved = _wide(given.conv_bias) + (_wide(window).mT * _wide(given.conv_weight)).sum(-1)
    x, B, C = split_conv(silu(convolved).to(xbc.dtype), given.inner, given.heads, given.groups)
    B, C = (_wide(of_group).repeat_interleave(given.heads // given.groups, 1) for of_group in (B, C))
    wait = softplus(_wide(dt[:, 0]) + _wide(given.dt_bias)).clamp(given.dt_min, given.dt_max)
    kept = (-_wide(given.A_log).exp() * wait).exp()
    added = torch.einsum("bh,bhp,bhn->bhpn", wait, _wide(x), B)
    given.state_in.copy_(kept[..., None, None] * given.state_in + added)
    y = torch.einsum("bhpn,bhn->bhp", given.state_in, C) + _wide(given.D)[:, None] * _wide(x)
    given.halo_in.copy_(window[:, 1:])
    return norm_forward(y.to(z.dtype).flatten(1)[:, None], z, given.norm_weight, eps, given.norm_groups)


# ---- SwiGLU


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of the two halves of the last dimension."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def swiglu_backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """The gradient of gate_up from that of silu(gate) * up."""
    gate, up = _wide(gate_up).chunk(2, dim=-1)
    slope, opened = _wide(grad), torch.sigmoid(gate)
    halves = (slope * up * opened * (1 + gate * (1 - opened)), slope * gate * opened)
    return torch.cat(halves, dim=-1).to(gate_up.dtype)


def float8_cast(x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x times scale in float8, as it lies and turned."""
    largest = torch.finfo(dtype).max
    codes = (x.float() * scale).clamp(-largest, largest).to(dtype)
    return codes, codes.t().contiguous()


def residual_norm(x: Tensor, branch: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + branch, and the RMSNorm of that in `dtype`."""
    total = x + branch
    wide = _wide(total)
    return total, (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * _wide(weight)).to(dtype)
