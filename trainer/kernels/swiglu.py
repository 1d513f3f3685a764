"""silu(gate) * up in Triton and its gradient, with gate and up side by side in one tensor: one pass over memory each.

The forward is for those who run no compiler; in training one joins it to its neighbours. For the gradient a compiler
that makes both halves as one tensor works out each element twice, once for either half, and reads what it needs for it
twice; here a program reads its pieces of both halves once and writes both.

With s = sigmoid(gate): d gate = grad up s (1 + gate (1 - s)), d up = grad gate s (SwiGLU: arXiv 2002.05202).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, TunableLaunch, on, pieces
from .math import sigmoid, wide

FORWARD = Launch(warps=4, block=1024)
BACKWARD = TunableLaunch("swiglu.BACKWARD", Launch(warps=4, block=2048))


@triton.jit
def _swiglu(gate_up, out, width, BLOCK: tl.constexpr):
    row = wide(tl.program_id(0))
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=live, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=live, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate * sigmoid(gate) * up).to(out.dtype.element_ty), mask=live)


@triton.jit
def _swiglu_backward(gate_up, grad, out, width, BLOCK: tl.constexpr):
    row = wide(tl.program_id(0))
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=live, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=live, other=0.0).to(tl.float32)
    slope = tl.load(grad + row * width + column, mask=live, other=0.0).to(tl.float32)
    opened = sigmoid(gate)
    dgate = slope * up * opened * (1.0 + gate * (1.0 - opened))
    dup = slope * gate * opened
    tl.store(out + row * 2 * width + column, dgate.to(out.dtype.element_ty), mask=live)
    tl.store(out + row * 2 * width + width + column, dup.to(out.dtype.element_ty), mask=live)


def swiglu_forward(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a contiguous (…, 2 x width), without gradients."""
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty((*gate_up.shape[:-1], width))
    with on(gate_up):
        _swiglu[(out.numel() // width, pieces(width, FORWARD.block))](
            gate_up, out, width, BLOCK=FORWARD.block, **FORWARD.options()
        )
    return out


def swiglu_backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """The gradient of gate_up (…, 2 x width) from that of silu(gate) * up (…, width); both are contiguous."""
    width = grad.shape[-1]
    out = torch.empty_like(gate_up)
    with on(grad):
        _swiglu_backward[(grad.numel() // width, pieces(width, BACKWARD.block))](
            gate_up, grad, out, width, BLOCK=BACKWARD.block, **BACKWARD.options()
        )
    return out
