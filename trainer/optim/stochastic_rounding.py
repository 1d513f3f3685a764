"""AdamW on bfloat16 weights with bfloat16 moments: computed in float32, rounded at random on the way back.

A step of AdamW is often smaller than half the distance of two bfloat16 numbers, and rounding to the nearest would lose
it for good. So a result between two of them becomes the upper one with the probability of its place between them:
the mean over many steps is right (stochastic rounding, Zamirai et al., arXiv:2010.06192). The random bits are a hash
of (parameter, element, number of updates): there is no random state to save, and they are the same on any number of
ranks. 8 bytes a parameter with its gradient, where float32 takes 16.
"""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..compiled import fused
from ..config import Optimizer
from ..distributed.fsdp import local, shard_mesh


class Rates(NamedTuple):
    """The numbers of one update, each a float32 scalar on the device. `divide_by` clips the gradient, `moved` counts
    the updates with this one, `first_part` and `second_part` are how much of its weights a moment has by then, and
    where `healthy`, a boolean, is false nothing changes."""

    lr: Tensor
    decay: Tensor
    divide_by: Tensor
    moved: Tensor
    first_part: Tensor
    second_part: Tensor
    healthy: Tensor

    @classmethod
    def of(
        cls, config: Optimizer, lr: Tensor, decay: Tensor, divide_by: Tensor, moved: Tensor, healthy: Tensor
    ) -> "Rates":
        """Powers are taken here, once: in the kernel they were a sixth of its work."""
        parts = (1 - config.beta1**moved, 1 - config.beta2**moved)
        return cls(lr, decay, divide_by, moved, *parts, healthy)


def salt(name: str, parameter: Tensor) -> Tensor:
    """Where the random bits of a parameter begin: from its name and the first element that this rank holds; int32."""
    first = 0
    if isinstance(parameter, DTensor):  # by rows, as FSDP2 does: the first ranks hold full chunks of them
        mesh, dimension = shard_mesh(parameter)
        chunk = -(-parameter.shape[0] // mesh.size(dimension))
        first = min(mesh.get_local_rank(dimension) * chunk, parameter.shape[0]) * math.prod(parameter.shape[1:])
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True)
    return torch.tensor((drawn + first + 2**31) % 2**32 - 2**31, dtype=torch.int32, device=local(parameter).device)


def update(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, salt: Tensor, rates: Rates, config: Optimizer
) -> None:
    """One step of AdamW on what a rank holds of a parameter: `weight` and the moments `first` and `second` are bfloat16
    and are overwritten, `grad` is bfloat16 or float32."""
    wide = (-1, 16) if weight.numel() % 16 == 0 else (-1, 1)  # a known width: one compiled kernel with wide loads
    tensors = (tensor.view(wide) for tensor in (weight, grad, first, second))
    _step(*tensors, salt, *rates, config.beta1, config.beta2, config.eps)


@fused
def _step(
    weight: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    salt: Tensor,
    lr: Tensor,
    decay: Tensor,
    divide_by: Tensor,
    moved: Tensor,
    first_part: Tensor,
    second_part: Tensor,
    healthy: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    slope = grad.float() / divide_by
    mean = first.float().lerp(slope, 1 - beta1)
    square = second.float().lerp(slope * slope, 1 - beta2)
    towards = mean / first_part / ((square / second_part).sqrt() + eps)
    stepped = weight.float() * (1 - lr * decay) - lr * towards
    places = torch.arange(weight.numel(), dtype=torch.int32, device=weight.device).view(weight.shape)
    bits = _mixed(_mixed(places + salt) + moved.int())
    for old, new, drawn in ((weight, stepped, bits), (first, mean, bits >> 16), (second, square, bits >> 16)):
        old.copy_(torch.where(healthy, rounded(new, drawn & 0xFFFF), old))


def rounded(wide: Tensor, drawn: Tensor) -> Tensor:
    """float32 to bfloat16, away from zero where `drawn`, int32 in [0, 2^16), and the bits that are cut off make a
    carry. NaN stays NaN: the one that a GPU makes is all ones, which a carry would turn into zero."""
    carried = ((wide.view(torch.int32) + drawn) & -0x10000).view(torch.float32)
    return torch.where(wide.isnan(), wide, carried).bfloat16()


def _mixed(x: Tensor) -> Tensor:
    """A bijection of int32 in which every bit depends on every other (the finalizer of MurmurHash3)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)
