"""How the gradients of a step come together: over its micro-batches, and over the ranks.

Sharded matrices: FSDP2 sums them, block by block, while the backward still computes. Vectors: one message a step.
Matrices that lie whole on every rank of several (`compute.shard_ranks: 1` with `optimizer.memory: low`): each is summed
in place as soon as the last backward has made it, in the dtype it has, with no copy of it; a bfloat16 model of 9.8 B
parameters then needs no more memory than on one rank alone.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ..config import Compute
from ..distributed.fsdp import World
from ..model.bamba import Bamba, vector_parameters


class GradientSync:
    """Of a model that was distributed."""

    def __init__(self, model: Bamba, compute: Compute, world: World, *, low_memory: bool) -> None:
        self.model, self.world, self.low_memory = model, world, low_memory
        self.reshard = compute.reshard
        self._last = False
        self._under_way: list[Any] = []
        if world.size > 1 and not isinstance(model, FSDPModule):
            small = {parameter for _, parameter in vector_parameters(model)}
            for parameter in model.parameters():
                if parameter not in small:
                    parameter.register_post_accumulate_grad_hook(self._sum)  # type: ignore[no-untyped-call]

    def before_backward(self, *, last: bool) -> None:
        """Of one micro-batch; `last` says that it is the last of the step."""
        self._last = last
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_all_reduce(last)  # between groups of ranks, if there are several
            if not self.reshard:  # what is not resharded stays gathered until the last one
                self.model.set_reshard_after_backward(last)
            if self.low_memory:  # summed in float32: for want of a smaller place, whole on each rank until the last one
                self.model.set_requires_gradient_sync(last)
        elif not last:
            for parameter in self.model.parameters():
                if parameter.grad is None:
                    parameter.grad_dtype = torch.float32

    def _sum(self, parameter: Tensor) -> None:
        if self._last:
            self._under_way.append(dist.all_reduce(parameter.grad, async_op=True))

    def finish(self) -> None:
        """After the last backward: what is computed from here on finds the sums over all ranks."""
        for work in self._under_way:
            work.wait()
        self._under_way.clear()
        grads = [parameter.grad for _, parameter in vector_parameters(self.model) if parameter.grad is not None]
        if self.world.size == 1 or not grads:
            return
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
