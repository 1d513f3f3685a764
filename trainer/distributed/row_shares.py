"""Whose rows of a matrix are whose to update, where every rank holds all of it (`optimizer.memory: low` with
`compute.shard_ranks: 1`).

Each rank updates its own rows alone and has their moments alone: the gradients come together there, and the new rows go
to all. That moves as many bytes as to add up whole gradients, and an update and its moments are shared by the ranks
(ZeRO's first stage, arXiv 1910.02054).
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from .fsdp import World


def own_rows(parameter: Tensor, world: World) -> slice | None:
    """The rows that this rank updates; None where it updates all that it holds: alone, of a shard, of a small vector,
    and of a matrix whose rows cannot be dealt evenly."""
    matrix = parameter.dtype == torch.bfloat16 and not isinstance(parameter, DTensor)
    if world.size == 1 or not matrix or parameter.shape[0] % world.size:
        return None
    rows = parameter.shape[0] // world.size
    return slice(world.rank * rows, (world.rank + 1) * rows)


def zero_moments(parameter: Tensor, world: World) -> Tensor:
    """Of the shape of `parameter`, and of its own rows where it has such: a checkpoint moves them to any number of
    ranks like any shards."""
    rows = own_rows(parameter, world)
    if rows is None:
        return torch.zeros_like(parameter)
    return DTensor.from_local(
        torch.zeros_like(parameter[rows]),
        world.mesh,
        [Shard(0)],
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
