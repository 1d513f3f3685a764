"""A linear whose weight gradient can go straight into a float32 sum over micro-batches (kernels/add_product_op.py).

It is a `Linear` to the bit until it is told where the sum is. Then autograd has no gradient of its weight.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..kernels.add_product_op import GradientSum, add_product


class SummingLinear(nn.Linear):
    """Made of a `Linear` without bias, as all of a block are, whose class becomes this one."""

    into: GradientSum | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.into is None:
            return linear(input, self.weight)
        out: Tensor = _Product.apply(input, self.weight, *self.into)  # type: ignore[no-untyped-call]
        return out


def convert(blocks: nn.Module) -> None:
    """Replace the linears of `blocks`, in place; those in float8, which are of another class, stay."""
    for module in blocks.modules():
        if type(module) is nn.Linear:
            module.__class__ = SummingLinear


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: Tensor, first: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.into = GradientSum(total, first)  # not saved: it is meant to change before the backward of another batch
        return linear(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        add_product(ctx.into, grad, x)
        return grad @ weight if ctx.needs_input_grad[0] else None, None, None, None


def stay_whole_in_graphs() -> None:
    """Call it before a block that holds such linears is compiled, for the reason that `swiglu` has: with torch 2.11 a
    recomputed block keeps what it could make again."""
    torch._dynamo.allow_in_graph(_Product)  # type: ignore[no-untyped-call]
