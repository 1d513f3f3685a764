"""One model on many processes: matrices sharded by FSDP2, block by block, over all ranks or over each of several groups
that hold a copy of the model; small vectors whole on each. Ranks that share rows are ranks like any others there: each
has a part of the loss, and gradients are sums over all.

Vectors (norms, convolutions, A_log, D, dt_bias) are replicated in float32, 7 MB of them at 9B, and their gradients are
summed once a step in one all-reduce. So the scan gets float32 parameters whatever the products compute in, and nothing
small is gathered over the network in a forward.

One process without a launcher is a world of one: the same code, the same checkpoints.

FSDP2 is torch's `fully_shard` (docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html), after ZeRO-3 (arXiv
1910.02054).
"""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from bamba_data.errors import UserError

from .. import compiled
from ..config import Compute
from ..context.group import ALONE, ContextGroup, check_ranks, no_groups
from ..kernels import swiglu_op
from ..model.bamba import Bamba, vector_parameters
from . import summing_linear
from .consistency import require_agreement
from .float8 import convert
from .offload import ResidualOffload
from .rendezvous import own_store

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)  # the slowest step, and a rank that opens its dataset late


@dataclass(frozen=True, slots=True)
class World:
    """This process among the others: its rank, how many there are, its device, and the mesh of all of them; and its
    place among those with which it shares rows. The rows of a step are dealt to `data_ranks`, as one of which all ranks
    of a context group count."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh
    context: ContextGroup = ALONE

    @property
    def data_rank(self) -> int:
        return self.rank // self.context.ranks

    @property
    def data_ranks(self) -> int:
        return self.size // self.context.ranks

    @property
    def leads(self) -> bool:
        return self.rank == 0


@contextmanager
def joined(context_ranks: int = 1, said: str = "compute.context_ranks") -> Iterator[World]:
    """Join the processes that the launcher started (`torchrun` sets RANK and its kin), or be alone.

    Args:
        context_ranks: So many neighbours share rows; the same on all ranks.
        said: What the user says that by.

    Raises:
        UserError: They do not divide the ranks, or other ranks were given another number.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    check_ranks(size, context_ranks, said)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        store = own_store(rank, size, COLLECTIVE_TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    else:
        dist.init_process_group(backend, store=_store(), rank=0, world_size=1, timeout=COLLECTIVE_TIMEOUT)
    try:
        mesh = init_device_mesh(device.type, (size,))
        yield World(rank, size, device, mesh, _context(device, size, context_ranks))
    finally:
        dist.destroy_process_group()


def _context(device: torch.device, size: int, context_ranks: int) -> ContextGroup:
    """This rank's group of those that share rows: a row of the mesh (data, context)."""
    # First, for a group that some ranks make and others do not would be waited for until the timeout.
    require_agreement({"compute.context_ranks": context_ranks}, "Give all ranks the same recipe")
    if context_ranks == 1:
        return ALONE
    mesh = init_device_mesh(device.type, (size // context_ranks, context_ranks), mesh_dim_names=("data", "context"))
    return ContextGroup(mesh.get_group("context").group_name, mesh.get_local_rank("context"), context_ranks)


def _store() -> Any:
    """The address book of a world of one."""
    return dist.HashStore()  # type: ignore[attr-defined]


def distribute(model: Bamba, compute: Compute, world: World, *, low_memory: bool = False) -> None:
    """Compile, recompute and shard a model on the meta device; then it lies on `world.device`, still without values.

    Args:
        low_memory: Matrices are bfloat16 in themselves. A rank that holds all of them has nothing to gather or to cast
            then, so its model is not wrapped by FSDP: that saves six passes over the weights a step.

    Raises:
        UserError: Float8 where the device or the model cannot have it; ranks that `shard_ranks` does not divide.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=getattr(torch, compute.dtype), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    model.head.fused = compute.compile and compiled.wanted(world.device)
    model.context = world.context
    model.compiled = compute.compile
    model.flex = model.head.fused and world.device.type == "cuda"  # on a CPU it has no backward
    if model.head.fused:
        if world.device.type == "cuda":
            compiled.keep_kernels_in_one_place()
        model.head.norm.compile(fullgraph=True)
    convert(model.blocks, compute.float8, world.device, compute.float8_casts)
    whole = {parameter for _, parameter in vector_parameters(model)}
    if low_memory:
        for parameter in set(model.parameters()) - whole:
            parameter.data = parameter.data.bfloat16()
    shard = partial(fully_shard, mesh=_mesh(world, compute.shard_ranks), mp_policy=policy, ignored_params=whole)
    sharded = not low_memory or (compute.shard_ranks or world.size) > 1
    if not sharded:
        summing_linear.convert(model.blocks)
    offload = ResidualOffload()
    for block in model.blocks:
        # Within the block's own call, so that the gathering of its weights happens around it, not inside a graph.
        forward = _computed(block.forward, compute)
        block.forward = offload.of(forward) if compute.offload_residuals else forward
        if sharded:
            shard(block, reshard_after_forward=compute.reshard)
    if sharded:
        shard(model.embedding, reshard_after_forward=compute.reshard)
        shard(model.head, reshard_after_forward=False)  # its backward comes next
        shard(model, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Sum: the loss of a rank is its part of the global mean already.
            module.set_gradient_divide_factor(1.0)
            if 1 in (world.size, compute.shard_ranks) or world.device.type == "cpu":  # gloo knows no other sum
                module.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=world.device)


def _mesh(world: World, shard_ranks: int | None) -> DeviceMesh:
    """One row of ranks that share a model; or several, whose gradients are summed row over row."""
    if shard_ranks is None or shard_ranks == world.size:
        return world.mesh
    if world.size % shard_ranks:
        raise UserError(
            f"compute.shard_ranks: {no_groups(world.size, shard_ranks)}: set it to a divisor of {world.size}, "
            "or leave it out"
        )
    shape = (world.size // shard_ranks, shard_ranks)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("copies", "shards"))


def shard_mesh(parameter: DTensor) -> tuple[DeviceMesh, int]:
    """(mesh, dimension): a parameter's ranks, and the dimension of them that shares it out; along any other, ranks hold
    the same."""
    return parameter.device_mesh, parameter.device_mesh.ndim - 1


def _computed(forward: Callable[..., Tensor], compute: Compute) -> Callable[..., Tensor]:
    if compute.recompute != "none":
        kept: dict[str, Any] = {} if compute.recompute == "full" else {"context_fn": _kept_contexts}
        forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False, **kept)
    if not compute.compile:
        return forward
    swiglu_op.stay_whole_in_graphs()
    summing_linear.stay_whole_in_graphs()
    return torch.compile(forward, fullgraph=True)


def _kept_contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE


#: What `recompute: selective` keeps: products, scan and attention, nearly all of a block's time. The rest reads memory.
_SAVED_OPS = {
    *(torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten._scaled_mm.default),
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.higher_order.flex_attention,
    torch.ops.bamba.mix.default,
    torch.ops.bamba.mix_context.default,
}


def reshard_model(model: nn.Module) -> None:
    """After forward passes that no backward follows: the head's weights are still gathered, and the model's state would
    hold them whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of it, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
