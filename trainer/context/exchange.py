"""What the ranks of a context group tell each other. Every call is a collective one of the whole group.

By torch's functional collectives: they find a group by its name, which a graph can hold, and a receiver waits where it
reads. So a message travels while the next kernels run.
"""

import torch
from torch import Tensor

from .group import ContextGroup


class Arriving:
    """A message of every rank on its way: `wait` gives them as (ranks, *shape), and what is computed before it, is
    computed meanwhile."""

    def __init__(self, mine: Tensor, group: ContextGroup) -> None:
        self._shape = (group.ranks, *mine.shape)
        dense = mine.contiguous().flatten()
        self._arriving = torch.ops._c10d_functional.all_gather_into_tensor(dense, group.ranks, group.name)

    def wait(self) -> Tensor:
        arrived: Tensor = torch.ops._c10d_functional.wait_tensor(self._arriving)
        return arrived.view(self._shape)


class Dealt:
    """A message to every rank on its way, (ranks, …) by receiver: `wait` gives what came, (ranks, …) by sender."""

    def __init__(self, by_receiver: Tensor, group: ContextGroup) -> None:
        each = [1] * group.ranks
        dense = by_receiver.contiguous()
        self._arriving = torch.ops._c10d_functional.all_to_all_single(dense, each, each, group.name)

    def wait(self) -> Tensor:
        arrived: Tensor = torch.ops._c10d_functional.wait_tensor(self._arriving)
        return arrived


def end_to_end(part: Tensor, group: ContextGroup) -> Tensor:
    """(batch, tokens, …) of a part as (batch, ranks * tokens, …) of the rows."""
    return Arriving(part, group).wait().transpose(0, 1).flatten(1, 2).contiguous()


def summed_parts(rows: Tensor, group: ContextGroup) -> Tensor:
    """The way back, for gradients: of (batch, ranks * tokens, …) on every rank the part that is held here, summed over
    the ranks in their order, in float32 at least."""
    found = Dealt(torch.unflatten(rows, 1, (group.ranks, -1)).transpose(0, 1), group).wait()
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    return found.sum(0, dtype=wide).to(rows.dtype)
