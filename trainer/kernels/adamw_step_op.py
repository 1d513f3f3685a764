"""A step of AdamW on a matrix whose weights and moments are bfloat16, in place, rounded at random."""

import torch
from torch import Tensor

from bamba_data.errors import UserError

from . import backends

NUMBERS = 5


@torch.no_grad()
def adamw_step(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, salt: Tensor, numbers: Tensor, healthy: Tensor,
    beta1: float, beta2: float,
) -> None:  # fmt: skip
    """weight = keep * weight - pace * mean / (sqrt(square) + least), where mean and square are the new moments.

    Args:
        weight: What a rank updates of a matrix; bfloat16, contiguous.
        grad: Its gradient, bfloat16 or float32.
        first: The mean of gradients, bfloat16.
        second: The mean of their squares, bfloat16.
        salt: Two int32: of the matrix, and the number of the first element here in the whole matrix.
        numbers: Five float32: what a gradient is multiplied by, keep, pace, least, the number of updates with this one.
        healthy: A boolean; where it is false no bit changes.
        beta1: How much of `first` stays.
        beta2: How much of `second` stays.
    """
    check(weight, grad, first, second, salt, numbers, healthy)
    backends.backend(weight).adamw_step(weight, grad, first, second, salt, numbers, healthy, beta1, beta2)


def check(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, salt: Tensor, numbers: Tensor, healthy: Tensor
) -> None:
    """`UserError` for what there is no step for: the kernel reads memory in the order in which it lies."""
    low, either = (torch.bfloat16,), (torch.bfloat16, torch.float32)
    matrices = {"weight": (weight, low), "grad": (grad, either), "first": (first, low), "second": (second, low)}
    for name, (tensor, dtypes) in matrices.items():
        if tensor.dtype not in dtypes or tensor.shape != weight.shape or not tensor.is_contiguous():
            raise UserError(
                f"adamw_step: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, strides {tensor.stride()}, not "
                f"contiguous, of shape {tuple(weight.shape)} and {' or '.join(map(str, dtypes))}"
            )
    if not weight.numel():
        raise UserError("adamw_step: nothing to update")
    for name, given, dtype, size in (
        ("salt", salt, torch.int32, 2),
        ("numbers", numbers, torch.float32, NUMBERS),
        ("healthy", healthy, torch.bool, 1),
    ):
        if given.dtype != dtype or given.numel() != size or given.device != weight.device:
            raise UserError(
                f"adamw_step: {name} is {given.dtype} of shape {tuple(given.shape)} on {given.device}, not {size} of "
                f"{dtype} on {weight.device}"
            )
