"""One token a row of a Mamba2 block, without gradients and in place: how a text is written."""

import math

import torch
from torch import Tensor

from bamba_data.errors import UserError

from . import backends
from .checks import check_mix
from .shapes import Carried, MixInputs


@torch.no_grad()
def step(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    norm_weight: Tensor,
    carried: Carried,
    eps: float,
    groups: int = 1,
    norm_groups: int = 1,
    dt_min: float = 0.0,
    dt_max: float = math.inf,
) -> Tensor:
    """`mix_carried` of rows of one token that all go on; `carried.state` and `.halo` are changed in place.

    Where a halo's token is not of the document that goes on, its channels are zeros: nobody looks at documents here.

    Returns:
        (batch, 1, inner) in the dtype of zxbcdt.
    """
    small = (conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, carried.documents[:, -1:])
    given = MixInputs(zxbcdt, *small, *carried, groups, norm_groups, dt_min, dt_max)
    check_mix(given)
    if zxbcdt.shape[1] != 1:
        raise UserError(f"step: {zxbcdt.shape[1]} tokens a row: one is taken")
    return backends.backend(zxbcdt, given.head_dim, given.state).step(given, eps)
