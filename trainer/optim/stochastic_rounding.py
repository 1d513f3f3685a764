"""AdamW on bfloat16 weights with bfloat16 moments: computed in float32, rounded at random on the way back.

A step of AdamW is often smaller than half the distance of two bfloat16 numbers, and rounding to the nearest would lose
it for good. So a result between two of them becomes the upper one with the probability of its place between them:
the mean over many steps is right (stochastic rounding, Zamirai et al., arXiv:2010.06192). The random bits are a hash
of (parameter, element, number of updates): there is no random state to save, and they are the same on any number of
ranks. 8 bytes a parameter with its gradient, where float32 takes 16. The step itself is `kernels.ops.adamw_step`.
"""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..config import Optimizer
from ..distributed.fsdp import local, shard_mesh
from ..kernels.ops import adamw_step


class Rates(NamedTuple):
    """What all matrices of one update share, on the device: `numbers` as `adamw_step` takes them, and `healthy`, a
    boolean; where it is false nothing changes."""

    numbers: Tensor
    healthy: Tensor

    @classmethod
    def of(
        cls, config: Optimizer, lr: Tensor, decay: Tensor, divide_by: Tensor, moved: Tensor, healthy: Tensor
    ) -> "Rates":
        """`divide_by` clips the gradient, `moved` counts the updates with this one. All that an element would divide
        by, and the powers, are taken here, once, in float64: of what is near 1, 1 - beta^moved would lose digits."""
        wide = moved.double()
        part, root = 1 - config.beta1**wide, (1 - config.beta2**wide).sqrt()
        numbers = (1 / divide_by.double(), 1 - lr.double() * decay, lr * root / part, config.eps * root, wide)
        return cls(torch.stack(numbers).float(), healthy)


def salt(name: str, parameter: Tensor) -> Tensor:
    """What makes a parameter's random bits its own: a hash of its name, and the first element that this rank holds
    (the places of a matrix are counted modulo 2^32); two int32."""
    first = 0
    if isinstance(parameter, DTensor):  # by rows, as FSDP2 does: the first ranks hold full chunks of them
        mesh, dimension = shard_mesh(parameter)
        chunk = -(-parameter.shape[0] // mesh.size(dimension))
        first = min(mesh.get_local_rank(dimension) * chunk, parameter.shape[0]) * math.prod(parameter.shape[1:])
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True)
    first = (first + 2**31) % 2**32 - 2**31
    return torch.tensor((drawn, first), dtype=torch.int32, device=local(parameter).device)


def update(
    weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, salt: Tensor, rates: Rates, config: Optimizer
) -> None:
    """One step of AdamW on what a rank holds of a parameter: `weight` and the moments `first` and `second` are bfloat16
    and are overwritten, `grad` is bfloat16 or float32."""
    adamw_step(weight, grad, first, second, salt, *rates, config.beta1, config.beta2)
