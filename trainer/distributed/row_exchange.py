"""Gradients to those who own their rows, and updated rows to all: what a step of ranks with whole copies sends.

A `RowExchange` does it beside the computation. Its matrices are those that have own rows (`row_shares`); they come in
groups, one a module of the model in the order of its forward, so that a forward begins before the last rows are there.
All ranks call the same verbs for the same matrices in the same order. `CollectiveExchange` is it by the process group,
on any devices; `peer_copies.py` has another for the GPUs of one host.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .fsdp import World
from .row_shares import own_rows

# Named anew in torch 2.13, where the old names warn.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class RowExchange(Protocol):
    """Nothing here makes the host wait for a GPU."""

    @property
    def device_bytes(self) -> int:
        """Of the GPU's memory, that torch's allocator does not know of."""

    def add_up(self, parameter: Tensor) -> None:
        """The gradient of `parameter` on this rank is whole: begin to add up all ranks' at each row's owner."""

    def added_up(self) -> dict[Tensor, Tensor]:
        """What is computed from here on finds the sums in the own rows of each gradient; other rows hold no sum.
        Returns the norms of those of some matrices, taken beside the backward (`norms`)."""

    def send(self, parameter: Tensor) -> None:
        """The own rows of `parameter` are updated: begin to send them to all. In the order of the groups."""

    def sent(self) -> None:
        """No more of them in this step."""

    def arrived(self, group: int) -> None:
        """What is computed from here on finds all rows of a group; nothing is to be done where they were there."""

    def settle(self) -> None:
        """What is computed from here on may read and write all weights: rows have come and have been sent."""


class CollectiveExchange:
    """By reduce-scatter and all-gather, in place.

    Args:
        groups: The matrices of each group.
    """

    device_bytes = 0

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], world: World) -> None:
        self.world = world
        self._group_of: dict[Tensor, int] = {
            parameter: number for number, group in enumerate(groups) for parameter in group
        }
        self._adding: list[Any] = []
        self._sending: dict[int, list[Any]] = {}

    def add_up(self, parameter: Tensor) -> None:
        grad, rows = parameter.grad, own_rows(parameter, self.world)
        assert grad is not None and rows is not None
        if grad.is_cuda:
            self._adding.append(_reduce_scatter(grad[rows], grad, async_op=True))
        else:  # gloo adds up all of it to scatter it, and not in place
            self._adding.append(dist.all_reduce(grad, async_op=True))

    def added_up(self) -> dict[Tensor, Tensor]:
        for work in self._adding:
            work.wait()
        self._adding.clear()
        return {}

    def send(self, parameter: Tensor) -> None:
        rows = own_rows(parameter, self.world)
        assert rows is not None
        whole = parameter.detach()
        work = _all_gather(whole, whole[rows], async_op=True)
        self._sending.setdefault(self._group_of[parameter], []).append(work)

    def sent(self) -> None:
        """Nothing is held back here."""

    def arrived(self, group: int) -> None:
        for work in self._sending.pop(group, []):
            work.wait()

    def settle(self) -> None:
        for group in list(self._sending):
            self.arrived(group)


def norms(grads: list[Tensor]) -> list[Tensor]:
    """The 2-norm of each, in float32; the same bits in whatever lists they come.

    Those of float32 by one launch for all. Of bfloat16 by one each: torch's launch for many took 12 ms for the 9.8 GB
    of a rank's own rows (an H200), where its launch for one reads 4 TB/s; and where dtypes mix in a list it makes one
    each anyhow, which adds up in another order.
    """
    wide = [grad for grad in grads if grad.dtype == torch.float32]
    of_wide = iter(torch._foreach_norm(wide, 2) if wide else ())
    return [
        next(of_wide) if grad.dtype == torch.float32 else torch.linalg.vector_norm(grad, dtype=torch.float32)
        for grad in grads
    ]
