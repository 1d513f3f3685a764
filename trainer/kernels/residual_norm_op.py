"""What stands between two layers, without gradients: the residual's sum, and the norm that the next layer reads."""

import torch
from torch import Tensor

from . import backends
from .checks import check_residual_norm


@torch.no_grad()
def residual_norm(x: Tensor, branch: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + branch, and weight * rms_norm(x + branch) over the last dimension.

    Args:
        x: (…, width): the residual stream.
        branch: (…, width): what a layer adds to it, in the same dtype or a narrower one.
        weight: (width,).
        eps: Added to the mean of squares.
        dtype: Of the norm that is returned.

    Returns:
        The sum, in the dtype of x, and its norm, in `dtype`; the norm is of the sum as it is returned.
    """
    check_residual_norm(x, branch, weight)
    return backends.backend(x).residual_norm(x.contiguous(), branch.contiguous(), weight, eps, dtype)
