"""The weight gradient of a linear added to a float32 sum by the product that makes it.

Nothing is rounded to bfloat16 and no gradient lies beside the sum: the product reads the sum and writes it, where an
addition would read it, read the gradient and write it in a pass of its own. Megatron-LM calls it gradient accumulation
fusion. On a GPU it is one call of cuBLAS; a CPU, which knows no such product, computes the same from float32 copies.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

#: (features out, features in) of weights for which a GPU is faster with a product in bfloat16 and an addition.
SLOWER: frozenset[tuple[int, ...]] = frozenset()

_LATER = torch.tensor(False)


class GradientSum(NamedTuple):
    """Where the gradient of a weight goes: `total`, float32 and of its shape; `first`, a boolean on the CPU that says
    that nothing is in it yet, whatever its memory holds. A tensor, not a flag of Python, of which a graph would be made
    for each value."""

    total: Tensor
    first: Tensor

    def later(self) -> "GradientSum":
        """The same when something is in it."""
        return GradientSum(self.total, _LATER)


def sums_in_product(weight: Tensor) -> bool:
    """Whether the gradient of this weight is to be summed here."""
    return tuple(weight.shape) not in SLOWER


def add_product(into: GradientSum, grad: Tensor, x: Tensor) -> None:
    """into.total += grad.T @ x, or = where it is the first.

    Args:
        grad: (…, features out), of what the linear gave.
        x: (…, features in), what it was given; of the same dtype.
    """
    torch.ops.bamba.add_product(into.total, grad.flatten(0, -2), x.flatten(0, -2), into.first)


@torch.library.custom_op("bamba::add_product", mutates_args=("total",))
def _add_product(total: Tensor, grad: Tensor, x: Tensor, first: Tensor) -> None:
    beta = 0.0 if first.item() else 1.0  # with 0 nobody reads the sum, so it may hold anything
    if total.is_cuda:
        torch.addmm(total, grad.T, x, out_dtype=torch.float32, beta=beta, out=total)
    else:
        torch.addmm(total, grad.T.float(), x.float(), beta=beta, out=total)


@_add_product.register_fake
def _(total: Tensor, grad: Tensor, x: Tensor, first: Tensor) -> None:
    return None


@register_flop_formula(torch.ops.bamba.add_product)
def _(total: Any, grad: Any, x: Any, *_: Any, **__: Any) -> int:
    """From their shapes."""
    return int(2 * grad[0] * grad[1] * x[1])
