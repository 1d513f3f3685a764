"""Causal depthwise convolution of width 4 and silu, forward and backward, in Triton; taps never cross documents.

A program owns a strip: some channels over some tokens. It walks down the tokens with the last four rows in
registers, so every row is read once a strip, and the backward makes each pre-activation once, not once a tap.

It walks by stretches of a few tokens. Most are plain: of one document, as are the three tokens before, and all that is
read lies in the row. There nothing is selected and nothing masked but the last channels, which is half of the
instructions of the other way, for the stretches at borders. Strides of tokens are constants when Triton compiles: a
row's place is then part of its load instruction.

The convolution is Mamba's (arXiv 2312.00752, section 3.4): y_t = silu(bias + sum over k of w_k x_{t-3+k}), a filter a
channel, with x taken as zero before the row and in other documents. Names: x0 … x3 the inputs of tokens t-3 … t, own0 …
own2 and now the documents that they are of, g0 … g3 the gradients before silu, w0 … w3 the taps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on, pieces
from .math import sigmoid, wide

# block: channels; registers: so that 32 and 24 warps fit on a multiprocessor
FORWARD = TunableLaunch("conv.FORWARD", Launch(warps=1, block=128, registers=64))
BACKWARD = TunableLaunch("conv.BACKWARD", Launch(warps=2, block=128, registers=80))
# Tokens of a program, of a stretch of it, and how many tokens ahead of their use rows are asked for. The backward has a
# row of the table of weight gradients for each strip: longer strips are fewer sums.
FORWARD_STRIP, FORWARD_STRETCH, FORWARD_AHEAD = 64, 8, 3
BACKWARD_STRIP, BACKWARD_STRETCH, BACKWARD_AHEAD = 128, 8, 3


@triton.jit
def _strip(pid, channels, tokens, CHANNELS: tl.constexpr, TOKENS: tl.constexpr):
    """(batch, first token, channels) of a program."""
    blocks = tl.cdiv(channels, CHANNELS)
    strips = tl.cdiv(tokens, TOKENS)
    column = (pid % blocks) * CHANNELS + tl.arange(0, CHANNELS)
    strip = pid // blocks
    return (strip // strips).to(tl.int64), (strip % strips) * TOKENS, column


@triton.jit
def _plain(documents, start, tokens, TOKENS: tl.constexpr, STRETCH: tl.constexpr, AHEAD: tl.constexpr):
    """A bit for each stretch of a strip: 1 for a plain one. Ids ascend: where its ends are of one document, all is."""
    number = tl.arange(0, TOKENS // STRETCH)
    first = start - 3 + number * STRETCH
    last = first + STRETCH + 2
    inside = (first >= 0) & (last + AHEAD < tokens)
    one = tl.load(documents + first, mask=inside, other=0) == tl.load(documents + last, mask=inside, other=1)
    return tl.sum(one.to(tl.int32) << number)


@triton.jit
def _float(raw):
    """In float32. bfloat16 by its bits: two numbers of a register take two instructions so, and three by a cast."""
    if raw.dtype == tl.bfloat16:
        return (raw.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return raw.to(tl.float32)


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
def _rows(pointer, t, column, channels, tokens, stride, COUNT: tl.constexpr):
    """Those of token t and the next ones, as a tuple."""
    rows = (_raw(pointer, t, column, channels, tokens, stride),)
    for step in tl.static_range(1, COUNT):
        new = (_raw(pointer, t + step, column, channels, tokens, stride),)
        rows = rows + new  # type: ignore[assignment]
    return rows


@triton.jit
def _parameters(weight, bias, column, channels):
    """The four columns of the weight, and the bias."""
    live = column < channels
    w0 = tl.load(weight + column * 4, mask=live, other=0.0).to(tl.float32)
    w1 = tl.load(weight + column * 4 + 1, mask=live, other=0.0).to(tl.float32)
    w2 = tl.load(weight + column * 4 + 2, mask=live, other=0.0).to(tl.float32)
    w3 = tl.load(weight + column * 4 + 3, mask=live, other=0.0).to(tl.float32)
    return w0, w1, w2, w3, tl.load(bias + column, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _owners(documents, t, tokens):
    """The documents of the three tokens before t."""
    return _owner(documents, t - 3, tokens), _owner(documents, t - 2, tokens), _owner(documents, t - 1, tokens)


@triton.jit
def _before(parameters, x0, x1, x2, x3):
    """What silu is given. Fused by name, as all sums here: both ways through a stretch must round alike."""
    w0, w1, w2, w3, b = parameters
    return tl.fma(w0, x0, tl.fma(w1, x1, tl.fma(w2, x2, tl.fma(w3, x3, b))))


@triton.jit
def _forward_stretch(
    x, documents, out, t, tokens, column, channels, parameters, inputs, ahead,
    x_token: tl.constexpr, out_token: tl.constexpr, AHEAD: tl.constexpr, WHOLE: tl.constexpr,
    STRETCH: tl.constexpr, PLAIN: tl.constexpr,
):  # fmt: skip
    x0, x1, x2 = inputs
    live = (column < channels) | WHOLE
    x_here = x + wide(t + AHEAD) * x_token + column
    out_here = out + wide(t) * out_token + column
    if not PLAIN:
        own0, own1, own2 = _owners(documents, t, tokens)
    for step in tl.static_range(STRETCH):
        x3 = _float(ahead[0])
        if PLAIN:
            t0, t1, t2 = x0, x1, x2
            new = tl.load(x_here + x_token * step, mask=live)
            wanted = live
        else:
            now = _owner(documents, t + step, tokens)
            t0, t1, t2 = tl.where(own0 == now, x0, 0.0), tl.where(own1 == now, x1, 0.0), tl.where(own2 == now, x2, 0.0)
            own0, own1, own2 = own1, own2, now
            new = _raw(x, t + step + AHEAD, column, channels, tokens, x_token)
            wanted = column < tl.where(t + step < tokens, channels, 0)
        before = _before(parameters, t0, t1, t2, x3)
        tl.store(out_here + out_token * step, (before * sigmoid(before)).to(out.dtype.element_ty), mask=wanted)
        ahead = ahead[1:] + (new,)  # noqa: RUF005 (Triton knows no star)
        x0, x1, x2 = x1, x2, x3
    return (x0, x1, x2), ahead


@triton.jit
def _conv(
    x, weight, bias, documents, out, tokens, channels, x_batch,
    x_token: tl.constexpr, out_token: tl.constexpr, CHANNELS: tl.constexpr, WHOLE: tl.constexpr,
    TOKENS: tl.constexpr, STRETCH: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    batch, start, column = _strip(tl.program_id(0), channels, tokens, CHANNELS, TOKENS)
    x += batch * x_batch
    out += batch * tokens * channels
    documents += batch * tokens
    parameters = _parameters(weight, bias, column, channels)
    x0, x1, x2 = _rows(x, start - 3, column, channels, tokens, x_token, 3)
    inputs = (_float(x0), _float(x1), _float(x2))
    ahead = _rows(x, start, column, channels, tokens, x_token, AHEAD)
    plain = _plain(documents, start, tokens, TOKENS, STRETCH, AHEAD)
    for number in tl.range(0, TOKENS // STRETCH):
        t = start + number * STRETCH
        if (plain >> number) & 1:
            inputs, ahead = _forward_stretch(
                x, documents, out, t, tokens, column, channels, parameters, inputs, ahead,
                x_token, out_token, AHEAD, WHOLE, STRETCH, True,
            )  # fmt: skip
        else:
            inputs, ahead = _forward_stretch(
                x, documents, out, t, tokens, column, channels, parameters, inputs, ahead,
                x_token, out_token, AHEAD, WHOLE, STRETCH, False,
            )  # fmt: skip


@triton.jit
def _backward_stretch(
    x, documents, grad, dx, start, t, tokens, column, channels,
    parameters, inputs, gradients, sums, ahead_x, ahead_g,
    x_token: tl.constexpr, grad_token: tl.constexpr, dx_token: tl.constexpr, AHEAD: tl.constexpr, WHOLE: tl.constexpr,
    STRETCH: tl.constexpr, PLAIN: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """The gradient of a token needs those before silu of itself and the next three: so step t stores token t-3's.

    OWN: the strip's own tokens, which its sums are of.
    """
    w0, w1, w2, w3, _ = parameters
    x0, x1, x2 = inputs
    g0, g1, g2 = gradients
    dw0, dw1, dw2, dw3, db = sums
    live = (column < channels) | WHOLE
    begun = column < tl.where(t > start, channels, 0)
    x_here = x + wide(t + AHEAD) * x_token + column
    grad_here = grad + wide(t + AHEAD) * grad_token + column
    dx_here = dx + wide(t - 3) * dx_token + column
    if not PLAIN:
        own0, own1, own2 = _owners(documents, t, tokens)
    for step in tl.static_range(STRETCH):
        x3, g3 = _float(ahead_x[0]), _float(ahead_g[0])
        if PLAIN:
            t0, t1, t2 = x0, x1, x2
            new_x = tl.load(x_here + x_token * step, mask=live)
            new_g = tl.load(grad_here + grad_token * step, mask=live)
        else:
            now = _owner(documents, t + step, tokens)
            t0, t1, t2 = tl.where(own0 == now, x0, 0.0), tl.where(own1 == now, x1, 0.0), tl.where(own2 == now, x2, 0.0)
            new_x = _raw(x, t + step + AHEAD, column, channels, tokens, x_token)
            new_g = _raw(grad, t + step + AHEAD, column, channels, tokens, grad_token)
        before = _before(parameters, t0, t1, t2, x3)
        gate = sigmoid(before)
        slope = tl.fma(before, gate - gate * gate, gate)
        if OWN:
            db = tl.fma(g3, slope, db)
        g3 *= slope
        if OWN:
            dw0, dw1, dw2, dw3 = tl.fma(g3, t0, dw0), tl.fma(g3, t1, dw1), tl.fma(g3, t2, dw2), tl.fma(g3, x3, dw3)
        if PLAIN:
            d1, d2, d3 = g1, g2, g3
            wanted = begun if step < 3 else live
        else:
            d1, d2 = tl.where(own1 == own0, g1, 0.0), tl.where(own2 == own0, g2, 0.0)
            d3 = tl.where(now == own0, g3, 0.0)
            own0, own1, own2 = own1, own2, now
            wanted = column < tl.where((t + step >= start + 3) & (t + step - 3 < tokens), channels, 0)
        result = tl.fma(w0, d3, tl.fma(w1, d2, tl.fma(w2, d1, w3 * g0)))
        tl.store(dx_here + dx_token * step, result.to(dx.dtype.element_ty), mask=wanted)
        ahead_x, ahead_g = ahead_x[1:] + (new_x,), ahead_g[1:] + (new_g,)  # noqa: RUF005
        x0, x1, x2 = x1, x2, x3
        g0, g1, g2 = g1, g2, g3
    return (x0, x1, x2), (g0, g1, g2), (dw0, dw1, dw2, dw3, db), ahead_x, ahead_g


@triton.jit
def _conv_backward(
    x, weight, bias, documents, grad, dx, dparameters,
    tokens, channels, x_batch, grad_batch, dx_batch,
    x_token: tl.constexpr, grad_token: tl.constexpr, dx_token: tl.constexpr, CHANNELS: tl.constexpr,
    WHOLE: tl.constexpr, TOKENS: tl.constexpr, STRETCH: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    batch, start, column = _strip(pid, channels, tokens, CHANNELS, TOKENS)
    x += batch * x_batch
    grad += batch * grad_batch
    dx += batch * dx_batch
    documents += batch * tokens
    parameters = _parameters(weight, bias, column, channels)
    x0, x1, x2 = _rows(x, start - 3, column, channels, tokens, x_token, 3)
    inputs = (_float(x0), _float(x1), _float(x2))
    # Gradients before silu of tokens t-3, t-2, t-1. Nothing made from these first ones is stored, but they must differ:
    # Triton 3.6 takes values handed along a loop for constant where they begin as the same.
    gradients = inputs
    zero = tl.zeros([CHANNELS], tl.float32)
    sums = (zero, zero, zero, zero, zero)
    ahead_x = _rows(x, start, column, channels, tokens, x_token, AHEAD)
    ahead_g = _rows(grad, start, column, channels, tokens, grad_token, AHEAD)
    plain = _plain(documents, start, tokens, TOKENS, STRETCH, AHEAD)
    for number in tl.range(0, TOKENS // STRETCH):
        t = start + number * STRETCH
        if (plain >> number) & 1:
            inputs, gradients, sums, ahead_x, ahead_g = _backward_stretch(
                x, documents, grad, dx, start, t, tokens, column, channels,
                parameters, inputs, gradients, sums, ahead_x, ahead_g,
                x_token, grad_token, dx_token, AHEAD, WHOLE, STRETCH, True, True,
            )  # fmt: skip
        else:
            inputs, gradients, sums, ahead_x, ahead_g = _backward_stretch(
                x, documents, grad, dx, start, t, tokens, column, channels,
                parameters, inputs, gradients, sums, ahead_x, ahead_g,
                x_token, grad_token, dx_token, AHEAD, WHOLE, STRETCH, False, True,
            )  # fmt: skip
    # The strip's last three tokens need three more, whose own sums are the next strip's.
    _backward_stretch(
        x, documents, grad, dx, start, start + TOKENS, tokens, column, channels,
        parameters, inputs, gradients, sums, ahead_x, ahead_g,
        x_token, grad_token, dx_token, AHEAD, WHOLE, 3, False, False,
    )  # fmt: skip
    dw0, dw1, dw2, dw3, db = sums
    blocks = tl.cdiv(channels, CHANNELS)
    live = column < channels
    dparameters += (pid // blocks).to(tl.int64) * channels * 5 + column
    tl.store(dparameters, dw0, mask=live)
    tl.store(dparameters + channels, dw1, mask=live)
    tl.store(dparameters + 2 * channels, dw2, mask=live)
    tl.store(dparameters + 3 * channels, dw3, mask=live)
    tl.store(dparameters + 4 * channels, db, mask=live)


def _programs(batch: int, tokens: int, channels: int, strip: int, block: int) -> int:
    return batch * pieces(tokens, strip) * pieces(channels, block)


def conv_forward(xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor) -> Tensor:
    """silu(causal depthwise convolution + bias); xbc: (batch, tokens, channels), channels contiguous."""
    batch, tokens, channels = xbc.shape
    out = torch.empty((batch, tokens, channels), dtype=xbc.dtype, device=xbc.device)
    with on(xbc):
        _conv[(_programs(batch, tokens, channels, FORWARD_STRIP, FORWARD.block),)](
            xbc, weight, bias, documents, out, tokens, channels, xbc.stride(0),
            x_token=xbc.stride(1), out_token=channels, CHANNELS=FORWARD.block, WHOLE=channels % FORWARD.block == 0,
            TOKENS=FORWARD_STRIP, STRETCH=FORWARD_STRETCH, AHEAD=FORWARD_AHEAD, **FORWARD.options(xbc),
        )  # fmt: skip
    return out


def conv_backward(xbc: Tensor, weight: Tensor, bias: Tensor, documents: Tensor, grad: Tensor, out: Tensor) -> Tensor:
    """Write the gradient of xbc to `out`; return the table for those of weight and bias, `column_sums`.

    Args:
        grad: Like xbc, that of the output; its channels contiguous.
        out: Like xbc, channels contiguous: a view of the packed projection's gradient.
    """
    batch, tokens, channels = xbc.shape
    strips = batch * pieces(tokens, BACKWARD_STRIP)
    partial = torch.empty((strips, 5, channels), dtype=torch.float32, device=xbc.device)
    with on(xbc):
        _conv_backward[(_programs(batch, tokens, channels, BACKWARD_STRIP, BACKWARD.block),)](
            xbc, weight, bias, documents, grad, out, partial,
            tokens, channels, xbc.stride(0), grad.stride(0), out.stride(0),
            x_token=xbc.stride(1), grad_token=grad.stride(1), dx_token=out.stride(1), CHANNELS=BACKWARD.block,
            WHOLE=channels % BACKWARD.block == 0, TOKENS=BACKWARD_STRIP, STRETCH=BACKWARD_STRETCH, AHEAD=BACKWARD_AHEAD,
            **BACKWARD.options(xbc),
        )  # fmt: skip
    return partial
