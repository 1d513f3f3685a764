"""Causal depthwise convolution of width 4 and silu, forward and backward, in Triton; taps never cross documents.

A program owns a strip: some channels over some tokens. It walks down the tokens with the last four rows in
registers, so every row is read once a strip, and the backward makes each pre-activation once, not once a tap.

The convolution is Mamba's (arXiv 2312.00752, section 3.4): y_t = silu(bias + sum over k of w_k x_{t-3+k}), a filter a
channel, with x taken as zero before the row and in other documents. Names: x0 … x3 the inputs of tokens t-3 … t, own0 …
own2 and now the documents that they are of, g0 … g3 the gradients before silu, w0 … w3 the taps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on
from .math import sigmoid, wide

FORWARD = TunableLaunch("conv.FORWARD", Launch(warps=1, block=128))  # block: channels
BACKWARD = TunableLaunch("conv.BACKWARD", Launch(warps=1, block=128))
FORWARD_STRIP = 8  # tokens a program walks, unrolled: three more rows are read for each eight
BACKWARD_STRIP = 128  # a row of the table of weight gradients for each: longer strips are fewer sums


@triton.jit
def _owner(documents, t, tokens):
    """The document of token t, -1 outside the row."""
    return tl.load(documents + t, mask=(t >= 0) & (t < tokens), other=-1)


@triton.jit
def _raw(pointer, t, column, channels, tokens, stride):
    """The row of token t, zeros outside the sequence."""
    wanted = column < tl.where((t >= 0) & (t < tokens), channels, 0)
    return tl.load(pointer + wide(t) * stride + column, mask=wanted, other=0.0)


@triton.jit
def _row(pointer, t, column, channels, tokens, stride):
    return _raw(pointer, t, column, channels, tokens, stride).to(tl.float32)


@triton.jit
def _strip(pid, channels, tokens, CHANNELS: tl.constexpr, TOKENS: tl.constexpr):
    """(batch, first token, channels) of a program."""
    blocks = tl.cdiv(channels, CHANNELS)
    strips = tl.cdiv(tokens, TOKENS)
    column = (pid % blocks) * CHANNELS + tl.arange(0, CHANNELS)
    strip = pid // blocks
    return (strip // strips).to(tl.int64), (strip % strips) * TOKENS, column


@triton.jit
def _taps(weight, bias, column, channels):
    """The four columns of the weight, and the bias."""
    live = column < channels
    w0 = tl.load(weight + column * 4, mask=live, other=0.0).to(tl.float32)
    w1 = tl.load(weight + column * 4 + 1, mask=live, other=0.0).to(tl.float32)
    w2 = tl.load(weight + column * 4 + 2, mask=live, other=0.0).to(tl.float32)
    w3 = tl.load(weight + column * 4 + 3, mask=live, other=0.0).to(tl.float32)
    return w0, w1, w2, w3, tl.load(bias + column, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _conv(
    x, weight, bias, documents, out, tokens, channels, x_batch, x_token, CHANNELS: tl.constexpr, TOKENS: tl.constexpr
):
    batch, start, column = _strip(tl.program_id(0), channels, tokens, CHANNELS, TOKENS)
    x += batch * x_batch
    out += batch * tokens * channels
    documents += batch * tokens
    w0, w1, w2, w3, b = _taps(weight, bias, column, channels)
    x0 = _row(x, start - 3, column, channels, tokens, x_token)
    x1 = _row(x, start - 2, column, channels, tokens, x_token)
    x2 = _row(x, start - 1, column, channels, tokens, x_token)
    own0 = _owner(documents, start - 3, tokens)
    own1 = _owner(documents, start - 2, tokens)
    own2 = _owner(documents, start - 1, tokens)
    for step in tl.static_range(TOKENS):
        t = start + step
        now = _owner(documents, t, tokens)
        x3 = _row(x, t, column, channels, tokens, x_token)
        before = b + w3 * x3
        before += w2 * tl.where(own2 == now, x2, 0.0)
        before += w1 * tl.where(own1 == now, x1, 0.0)
        before += w0 * tl.where(own0 == now, x0, 0.0)
        result = before * sigmoid(before)
        wanted = column < tl.where(t < tokens, channels, 0)
        tl.store(out + wide(t) * channels + column, result.to(out.dtype.element_ty), mask=wanted)
        x0, x1, x2 = x1, x2, x3
        own0, own1, own2 = own1, own2, now


@triton.jit
def _conv_backward(
    x, weight, bias, documents, grad, dx, dparameters,
    tokens, channels, x_batch, x_token, grad_batch, grad_token, dx_batch, dx_token,
    CHANNELS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    batch, start, column = _strip(pid, channels, tokens, CHANNELS, TOKENS)
    x += batch * x_batch
    grad += batch * grad_batch
    dx += batch * dx_batch
    documents += batch * tokens
    w0, w1, w2, w3, b = _taps(weight, bias, column, channels)
    zero = tl.zeros([CHANNELS], tl.float32)
    x0 = _row(x, start - 3, column, channels, tokens, x_token)
    x1 = _row(x, start - 2, column, channels, tokens, x_token)
    x2 = _row(x, start - 1, column, channels, tokens, x_token)
    own0 = _owner(documents, start - 3, tokens)
    own1 = _owner(documents, start - 2, tokens)
    own2 = _owner(documents, start - 1, tokens)
    # Gradients before silu of tokens t-3, t-2, t-1. Nothing made from these first ones is stored, but they must differ:
    # Triton 3.6 takes values handed along a loop for constant where they begin as the same.
    g0, g1, g2 = x0, x1, x2
    dw0, dw1, dw2, dw3, db = zero, zero, zero, zero, zero
    next_x = _raw(x, start, column, channels, tokens, x_token)
    next_g = _raw(grad, start, column, channels, tokens, grad_token)
    after_x = _raw(x, start + 1, column, channels, tokens, x_token)
    after_g = _raw(grad, start + 1, column, channels, tokens, grad_token)
    # The gradient of token t needs those before silu of t … t+3. Two steps at a time: that saves half of the moves
    # from x1 to x0 and so on. (Four at a time are slower.)
    for step in tl.range(0, TOKENS + 4, loop_unroll_factor=2):
        t = start + step
        now = _owner(documents, t, tokens)
        x3, g3 = next_x.to(tl.float32), next_g.to(tl.float32)
        next_x, next_g = after_x, after_g
        after_x = _raw(x, t + 2, column, channels, tokens, x_token)  # two steps ahead: that hides the loads' latency
        after_g = _raw(grad, t + 2, column, channels, tokens, grad_token)
        t0 = tl.where(own0 == now, x0, 0.0)
        t1 = tl.where(own1 == now, x1, 0.0)
        t2 = tl.where(own2 == now, x2, 0.0)
        before = b + w3 * x3 + w2 * t2 + w1 * t1 + w0 * t0
        gate = sigmoid(before)
        g3 *= gate + before * (gate - gate * gate)
        own_g = tl.where(step < TOKENS, g3, 0.0)  # later tokens' weights belong to the next strip
        dw0 += own_g * t0
        dw1 += own_g * t1
        dw2 += own_g * t2
        dw3 += own_g * x3
        db += own_g
        result = w3 * g0
        result += w2 * tl.where(own1 == own0, g1, 0.0)
        result += w1 * tl.where(own2 == own0, g2, 0.0)
        result += w0 * tl.where(now == own0, g3, 0.0)
        wanted = column < tl.where((step >= 3) & (step < TOKENS + 3) & (t - 3 < tokens), channels, 0)
        tl.store(dx + wide(t - 3) * dx_token + column, result.to(dx.dtype.element_ty), mask=wanted)
        g0, g1, g2 = g1, g2, g3
        x0, x1, x2 = x1, x2, x3
        own0, own1, own2 = own1, own2, now
    blocks = tl.cdiv(channels, CHANNELS)
    live = column < channels
    dparameters += (pid // blocks).to(tl.int64) * channels * 5 + column
    tl.store(dparameters, dw0, mask=live)
    tl.store(dparameters + channels, dw1, mask=live)
    tl.store(dparameters + 2 * channels, dw2, mask=live)
    tl.store(dparameters + 3 * channels, dw3, mask=live)
    tl.store(dparameters + 4 * channels, db, mask=live)


def _programs(batch: int, tokens: int, channels: int, strip: int, block: int) -> int:
    return batch * int(triton.cdiv(tokens, strip) * triton.cdiv(channels, block))


def conv_forward(xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor) -> Tensor:
    """silu(causal depthwise convolution + bias); xbc: (batch, tokens, channels), channels contiguous."""
    batch, tokens, channels = xbc.shape
    out = torch.empty((batch, tokens, channels), dtype=xbc.dtype, device=xbc.device)
    with on(xbc):
        _conv[(_programs(batch, tokens, channels, FORWARD_STRIP, FORWARD.block),)](
            xbc, weight, bias, documents, out, tokens, channels, *xbc.stride()[:2],
            CHANNELS=FORWARD.block, TOKENS=FORWARD_STRIP, **FORWARD.options(),
        )  # fmt: skip
    return out


def conv_backward(xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor, grad: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of xbc to `out`; return the table for those of weight and bias, `column_sums`.

    Args:
        grad: Like xbc, that of the output; its channels contiguous.
        out: Like xbc, channels contiguous: a view of the packed projection's gradient.
    """
    batch, tokens, channels = xbc.shape
    strips = batch * triton.cdiv(tokens, BACKWARD_STRIP)
    partial = torch.empty((strips, 5, channels), dtype=torch.float32, device=xbc.device)
    with on(xbc):
        _conv_backward[(_programs(batch, tokens, channels, BACKWARD_STRIP, BACKWARD.block),)](
            xbc, weight, bias, documents, grad, out, partial, tokens, channels,
            *xbc.stride()[:2], *grad.stride()[:2], *out.stride()[:2],
            CHANNELS=BACKWARD.block, TOKENS=BACKWARD_STRIP, **BACKWARD.options(),
        )  # fmt: skip
    return partial
