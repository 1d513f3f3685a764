"""The mathematics, in plain torch: what every kernel must compute, forward and backward, on any device and dtype.

The names are those of docs/kernels.md, the scan is the chunked form of the Mamba-2 paper (arXiv 2405.21060, section 6
and listing 1). Letters of einsum: b sequence, c chunk, q token of a chunk (or i that reads j), h head, p channel of a
head, n number of the state. Work is done in float64 where the input is float64, else in float32. Nothing here goes
through autograd: the backward is written out, and the tests hold it against autograd of the recurrence.

A document never sees another, not even in a rounding: every sum that could cross a border is taken with the other
documents' terms at exactly zero, so a token's result is the same bits whatever its neighbours hold.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, silu, softplus

from .shapes import STATE_TOKENS, ScanGrads, ScanInputs, kept_states
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


def conv_backward(
    xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor, grad: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of xbc to `out`; return those of weight and bias."""
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
    return torch.stack([(inner * tap).sum((0, 1)) for tap in taps], dim=1), inner.sum((0, 1))


# ---- gated norm


def norm_forward(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * rms_norm(y * silu(z)) over the last dimension."""
    gated = _wide(y) * silu(_wide(z))
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    return (gated * scale * _wide(weight)).to(y.dtype)


def norm_backward(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, grad: Tensor, out_z: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of z to `out_z`; return those of y and weight."""
    wide_y, wide_z, wide_grad = _wide(y), _wide(z), _wide(grad)
    gate = torch.sigmoid(wide_z)
    gated = wide_y * wide_z * gate
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    normal = gated * scale
    inner = wide_grad * _wide(weight)
    dgated = scale * (inner - normal * (inner * normal).mean(-1, keepdim=True))
    out_z.copy_(dgated * wide_y * gate * (1 + wide_z * (1 - gate)))
    return (dgated * wide_z * gate).to(y.dtype), (wide_grad * normal).flatten(0, -2).sum(0)


# ---- scan


class _Chunks(NamedTuple):
    """The scan's inputs cut into chunks (batch, chunk, token, …), and what the decay makes of them."""

    x: Tensor
    B: Tensor
    C: Tensor
    step: Tensor  # softplus(dt + bias): (b, c, q, h)
    decay: Tensor  # L_ij = exp(s_i - s_j) inside a document, i >= j, else 0: (b, c, h, i, j)
    enter: Tensor  # exp(s_i) where the state before the chunk is of token i's document, else 0: (b, c, q, h)
    leave: Tensor  # exp(S - s_j) where the state after the chunk is of token j's document, else 0: (b, c, q, h)
    carry: Tensor  # exp(S) where one document spans the chunk and the token before it, else 0: (b, c, h)
    same: Tensor  # tokens j <= i of one document: (b, c, i, j)


def _cut(tensor: Tensor, tokens: int) -> Tensor:
    """(batch, tokens, …) as (batch, chunks, CHUNK, …), filled up with zeros."""
    missing = -tokens % CHUNK
    filled: Tensor = pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
    return torch.unflatten(filled, 1, (-1, CHUNK))


def _chunks(inputs: ScanInputs) -> _Chunks:
    tokens = inputs.x.shape[1]
    raw = _wide(inputs.dt) + _wide(inputs.dt_bias)
    step = _cut(softplus(raw), tokens)
    missing = -tokens % CHUNK
    documents = torch.cat([inputs.documents, inputs.documents[:, -1:].expand(-1, missing)], 1).unflatten(1, (-1, CHUNK))
    last = documents[:, :, -1]
    before = pad(last, (1, -1), value=-1)
    earlier = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=step.device).tril()
    same = earlier & (documents[..., :, None] == documents[..., None, :])
    # the sum of the log-decays from the document's start, or the chunk's, to each token
    total = same.to(step.dtype) @ (step * -_wide(inputs.A_log).exp())
    apart = (total[:, :, :, None] - total[:, :, None]).clamp(max=0).exp() * same[..., None]
    end = total[:, :, -1:]
    entering, leaving = documents == before[..., None], documents == last[..., None]
    return _Chunks(
        x=_cut(_wide(inputs.x), tokens),
        B=_cut(_wide(inputs.B), tokens),
        C=_cut(_wide(inputs.C), tokens),
        step=step,
        decay=apart.permute(0, 1, 4, 2, 3),
        enter=total.exp() * entering[..., None],
        leave=(end - total).clamp(max=0).exp() * leaving[..., None],  # another document's total can lie below its end
        carry=end[:, :, 0].exp() * (last == before)[..., None],
        same=same,
    )


def _handed_on(added: Tensor, carry: Tensor, *, backwards: bool) -> Tensor:
    """The state that each chunk meets, from what each adds to it and how much of it each lets through."""
    met = torch.empty_like(added)
    state = torch.zeros_like(added[:, 0])
    order = range(added.shape[1])
    for chunk in reversed(order) if backwards else order:
        met[:, chunk] = state
        state = state * carry[:, chunk, :, None, None] + added[:, chunk]
    return met


def _states(cut: _Chunks) -> Tensor:
    """h before each chunk: (b, c, h, p, n)."""
    return _handed_on(
        torch.einsum("bcqh,bcqhp,bcqn->bchpn", cut.leave * cut.step, cut.x, cut.B), cut.carry, backwards=False
    )


def scan_forward(inputs: ScanInputs, keep: bool = False) -> tuple[Tensor, Tensor]:
    """y of h_t = exp(A dt_t) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t, with h = 0 where a document starts; and
    `shapes.kept_states`."""
    cut = _chunks(inputs)
    met = _states(cut)
    states = kept_states(inputs.x, inputs.B.shape[-1], keep=keep)
    if keep:
        states.copy_(met[:, :: STATE_TOKENS // CHUNK].mT)
    scores = torch.einsum("bcin,bcjn->bcij", cut.C, cut.B)[:, :, None] * cut.decay
    y = torch.einsum("bchij,bcjh,bcjhp->bcihp", scores, cut.step, cut.x)
    y = y + cut.enter[..., None] * torch.einsum("bcin,bchpn->bcihp", cut.C, met)
    y = y + _wide(inputs.D)[:, None] * cut.x
    return y.flatten(1, 2)[:, : inputs.x.shape[1]].to(inputs.x.dtype).contiguous(), states


def scan_backward(inputs: ScanInputs, kept: Tensor, grad: Tensor, out: ScanGrads) -> tuple[Tensor, Tensor, Tensor]:
    """Write the large gradients to `out`; return those of A_log, D and dt_bias. `kept` is made anew, unrounded."""
    tokens = inputs.x.shape[1]
    cut = _chunks(inputs)
    dy = _cut(_wide(grad), tokens)
    rate = -_wide(inputs.A_log).exp()
    states = _states(cut)
    lam = _handed_on(
        torch.einsum("bcqh,bcqhp,bcqn->bchpn", cut.enter, dy, cut.C), cut.carry, backwards=True
    )  # the gradient of the state after each chunk

    scores = torch.einsum("bcin,bcjn->bcij", cut.C, cut.B)[:, :, None] * cut.decay  # CB_ij L_ij
    pairs = torch.einsum("bcihp,bcjhp->bchij", dy, cut.x) * cut.step.transpose(2, 3)[..., None, :]  # dt_j W_ij
    from_lam = cut.leave[..., None] * torch.einsum("bchpn,bcjn->bcjhp", lam, cut.B)
    q = torch.einsum("bchij,bcihp->bcjhp", scores, dy) + from_lam
    out.x.copy_(_uncut(cut.step[..., None] * q + _wide(inputs.D)[:, None] * dy, tokens))

    dcb = (cut.decay * pairs).sum(2)
    dC = dcb @ cut.B + torch.einsum("bcih,bchpn,bcihp->bcin", cut.enter, states, dy)
    dB = dcb.transpose(2, 3) @ cut.C + torch.einsum("bcjh,bchpn,bcjhp->bcjn", cut.step * cut.leave, lam, cut.x)
    out.C.copy_(_uncut(dC, tokens))
    out.B.copy_(_uncut(dB, tokens))

    # the gradient of the log-decay a_k: every path from a token before k to a token at or after k
    paths = torch.tril(scores * pairs, diagonal=-1)
    starts = paths.sum(3) - paths.sum(4)  # (b, c, h, token): what begins there less what ends there
    starts = starts.transpose(2, 3) + cut.step * (cut.x * from_lam).sum(-1)
    ends = cut.enter * (torch.einsum("bcin,bchpn->bcihp", cut.C, states) * dy).sum(-1)
    same = cut.same.to(starts.dtype)
    through = cut.carry * (lam * states).sum((-1, -2))
    da = torch.tril(same, diagonal=-1) @ starts + same.transpose(2, 3) @ ends + through[:, :, None]

    dstep = (q * cut.x).sum(-1) + rate * da
    ddt = _uncut(dstep, tokens) * torch.sigmoid(_wide(inputs.dt) + _wide(inputs.dt_bias))
    out.dt.copy_(ddt)
    return rate * (da * cut.step).sum((0, 1, 2)), (dy * cut.x).sum((0, 1, 2, 4)), ddt.sum((0, 1))


def _uncut(tensor: Tensor, tokens: int) -> Tensor:
    return tensor.flatten(1, 2)[:, :tokens]


# ---- SwiGLU


def swiglu_backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """The gradient of gate_up from that of silu(gate) * up."""
    gate, up = _wide(gate_up).chunk(2, dim=-1)
    slope, opened = _wide(grad), torch.sigmoid(gate)
    halves = (slope * up * opened * (1 + gate * (1 - opened)), slope * gate * opened)
    return torch.cat(halves, dim=-1).to(gate_up.dtype)
