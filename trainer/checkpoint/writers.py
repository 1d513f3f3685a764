"""Which rank keeps and writes what several ranks hold, so that a host copies no tensor twice.

Vectors lie whole on every rank, and so do the matrices where each rank holds the model (`compute.shard_ranks`). Each is
one rank's to write, or one group's of those that share it out: the largest first, to whom has least yet. It follows
from shapes alone, so all ranks come to the same without a message.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor

from .pieces import size_bytes


def written_by(rank: int, ranks: int, state: Mapping[str, Tensor]) -> set[str]:
    """The names of what `rank` writes all or a shard of; `state` has the same names and shapes on all `ranks`."""
    load = [0.0] * ranks
    mine: set[str] = set()
    for name, tensor in sorted(state.items(), key=lambda item: -size_bytes(item[1])):
        writers = min(_holders(tensor, ranks), key=lambda group: max(load[one] for one in group))
        for one in writers:
            load[one] += size_bytes(tensor) / len(writers)
        if rank in writers:
            mine.add(name)
    return mine


def _holders(tensor: Tensor, ranks: int) -> list[list[int]]:
    """Groups of ranks, each of which has all of it between them."""
    if not isinstance(tensor, DTensor):
        return [[rank] for rank in range(ranks)]
    mesh = tensor.device_mesh  # its last dimension shares tensors out, any other has copies
    groups: list[list[int]] = mesh.mesh.reshape(-1, mesh.size(mesh.ndim - 1)).tolist()
    return groups
