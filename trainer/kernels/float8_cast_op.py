"""A matrix in float8 by a scale, as it lies and turned: what the products of a linear in float8 read."""

import torch
from torch import Tensor

from bamba_data.errors import UserError

from . import backends

CODES = (torch.float8_e4m3fn, torch.float8_e5m2)


def float8_cast(x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x times `scale` in `dtype`, as it lies and turned, without gradients.

    Args:
        x: (height, width), bfloat16 or float32.
        scale: One float32 number.
        dtype: float8_e4m3fn or float8_e5m2. What is beyond its largest number becomes that.

    Returns:
        (height, width) and (width, height), both contiguous, of the same codes.
    """
    check(x, scale, dtype)
    rows, turned = torch.ops.bamba.float8_cast(x, scale, dtype)
    return rows, turned


@torch.library.custom_op("bamba::float8_cast", mutates_args=())
def _cast(x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    given = x if x.stride(1) == 1 else x.contiguous()
    return backends.backend(given).float8_cast(given, scale, dtype)


@_cast.register_fake
def _(x: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    height, width = x.shape
    return x.new_empty((height, width), dtype=dtype), x.new_empty((width, height), dtype=dtype)


def check(x: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """`UserError` for what there is no cast for."""
    if dtype not in CODES:
        raise UserError(f"float8_cast: to {dtype}, {' or '.join(map(str, CODES))} are made")
    if x.dim() != 2 or not x.numel() or x.dtype not in (torch.bfloat16, torch.float32):
        raise UserError(f"float8_cast: x is {x.dtype} of shape {tuple(x.shape)}, not a matrix in bfloat16 or float32")
    if scale.numel() != 1 or scale.dtype != torch.float32 or scale.device != x.device:
        raise UserError(
            f"float8_cast: scale is {scale.dtype} of shape {tuple(scale.shape)} on {scale.device}, not one float32 "
            f"number on {x.device}"
        )
