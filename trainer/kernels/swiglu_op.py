"""SwiGLU of the MLP. In training only its backward is a kernel: the compiler joins the forward to others."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from . import backends
from .checks import check_swiglu

SWIGLU_BACKWARD = "bamba::swiglu_backward"  # graphs that somebody exported hold it


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202), of (…, 2 width): the gate in the first half of the last dimension, up in the
    second."""
    check_swiglu(gate_up)
    out: Tensor = _SwiGLU.apply(gate_up)
    return out


@torch.no_grad()
def swiglu_now(gate_up: Tensor) -> Tensor:
    """`swiglu` without gradients, as one launch where nothing is compiled: a text that is written on."""
    check_swiglu(gate_up)
    return backends.backend(gate_up).swiglu_forward(gate_up.contiguous())


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out: Tensor = torch.ops.bamba.swiglu_backward(*ctx.saved_tensors, grad)
        return out


def stay_whole_in_graphs() -> None:
    """Call it before a block that holds `swiglu` is compiled. Dynamo otherwise looks into the function, and with torch
    2.11 what it finds there loses the mark that it is made again: a recomputed block then keeps the result, 28 kB a
    token and layer at 9B. No decorator, which would cost everybody who imports this two seconds for the compiler."""
    torch._dynamo.allow_in_graph(_SwiGLU)


@torch.library.custom_op(SWIGLU_BACKWARD, mutates_args=())
def swiglu_backward(gate_up: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `gate_up` from that of its `swiglu`."""
    return backends.backend(grad).swiglu_backward(gate_up.contiguous(), grad.contiguous())


@swiglu_backward.register_fake
def _(gate_up: Tensor, grad: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)
