"""How long collectives take by bytes and ranks, and what that says of many more ranks.

    torchrun --nproc-per-node 8 -m benchmarks.collectives [--most-bytes N]     one JSON line

A collective of `n` ranks over `b` bytes in rings takes `a(n-1) latency + a(n-1)/n b / bandwidth`, with a = 2 for an
all-reduce and 1 for its halves (Patarasu and Yuan, J. Parallel Distrib. Comput. 69, 2009). `fit` finds both constants
from measured ones, and `step_on_nodes` says what a step of a model takes on so many nodes by them. Bytes are of the
whole buffer, on a rank.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from trainer.distributed.fsdp import World, joined
from trainer.observe.health import median_seconds

PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
LEAST_BYTES = 1 << 16
NODE_RANKS = 8


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one collective of `ranks` over `size_bytes`."""

    kind: str
    ranks: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ring:
    """What a ring costs: seconds a hop, and bytes a second that pass a rank. `worst` is how far the farthest of the
    measured times lies from the fit, as a part of it."""

    latency: float
    bandwidth: float
    worst: float = 0.0

    def seconds(self, kind: str, ranks: int, size_bytes: float) -> float:
        """Of a collective that nothing else shares the links with."""
        hops = PASSES[kind] * (ranks - 1)
        return hops * self.latency + hops / ranks * size_bytes / self.bandwidth


@dataclass(frozen=True, slots=True)
class Predicted:
    """A step on many nodes, in seconds: `hidden` if everything between the nodes runs beneath products, `bare` if
    nothing does. The truth lies between them."""

    nodes: int
    between_nodes: float
    hidden: float
    bare: float


def fit(taken: Sequence[Taken]) -> Ring:
    """Latency and bandwidth that are nearest to the measured times, each by its own size: least squares of parts.

    Raises:
        ValueError: There are too few different times to tell the two apart.
    """
    several = [one for one in taken if one.ranks > 1]
    hops = np.array([PASSES[one.kind] * (one.ranks - 1) for one in several], dtype=np.float64)
    seconds = np.array([one.seconds for one in several])
    columns = np.stack([hops, hops * [one.size_bytes / one.ranks for one in several]], 1)
    weighted = columns / seconds[:, None]
    if len(several) < 2 or np.linalg.matrix_rank(weighted / np.linalg.norm(weighted, axis=0)) < 2:
        raise ValueError(f"{len(several)} times of collectives do not tell latency and bandwidth apart")
    latency, per_byte = np.linalg.lstsq(weighted, np.ones(len(several)), rcond=None)[0]
    latency, per_byte = max(float(latency), 0.0), max(float(per_byte), 1e-18)
    worst = np.abs(columns @ [latency, per_byte] / seconds - 1).max()
    return Ring(latency, 1 / per_byte, float(worst))


def step_on_nodes(
    step_seconds: float, parameters: int, nodes: int, between: Ring, reduce_bytes: int = 4, node_ranks: int = NODE_RANKS
) -> Predicted:
    """A step whose matrices are sharded over the ranks of a node (`compute.shard_ranks`), each node with a whole model:
    what a node does is what was measured on one, and between nodes each rank sums its shard of the gradients.

    Args:
        step_seconds: Measured on one node, sharded over its ranks.
        between: Of a rank's link to other nodes.
        reduce_bytes: Of a gradient on its way: float32, as we sum.
    """
    shard = parameters * reduce_bytes / node_ranks
    apart = between.seconds("all_reduce", nodes, shard) if nodes > 1 else 0.0
    return Predicted(nodes, apart, max(step_seconds, apart), step_seconds + apart)


def measure(world: World, most_bytes: int, repeats: int = 7) -> list[Taken]:
    """Every collective at sizes from 64 KiB on, each four times the one before; a collective call."""
    found = []
    size = LEAST_BYTES
    while size <= most_bytes:
        whole = torch.zeros(size // 4, device=world.device)
        piece = torch.zeros(size // 4 // world.size, device=world.device)
        even = whole[: piece.numel() * world.size]
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda even=even: dist.all_reduce(even),  # type: ignore[misc]
            "all_gather": lambda even=even, piece=piece: dist.all_gather_into_tensor(even, piece),  # type: ignore[misc]
            "reduce_scatter": lambda even=even, piece=piece: dist.reduce_scatter_tensor(piece, even),  # type: ignore[misc]
        }
        for kind, call in calls.items():
            mine = median_seconds(call, world.device, repeats, before=dist.barrier)
            seconds = [mine] * world.size
            dist.all_gather_object(seconds, mine)
            found.append(Taken(kind, world.size, even.nbytes, max(seconds)))
        size *= 4
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most-bytes", type=int, default=1 << 30)
    options = parser.parse_args()
    with joined() as world:
        found = measure(world, options.most_bytes)
        device = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
        if world.leads:
            rows = [{"kind": one.kind, "bytes": one.size_bytes, "seconds": one.seconds} for one in found]
            known = {"benchmark": "collectives", "device": device, "ranks": world.size, "torch": torch.__version__}
            print(json.dumps({**known, "collectives": rows}))


if __name__ == "__main__":
    main()
