"""Streams that wait in the host's memory change no bit, and are not kept on the device meanwhile."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from bamba_data.errors import UserError
from tests.trainer.job import RECIPE
from tests.trainer.small import CONFIG, packed
from trainer.config import Compute, load_recipe
from trainer.distributed.fsdp import World, distribute
from trainer.distributed.offload import ResidualOffload
from trainer.model.bamba import Bamba
from trainer.model.init_weights import init_weights
from trainer.observe.memory_estimate import stream_bytes

LENGTHS = [40, 1, 70]


def learned(world: World, *, offload: bool, compiled: bool = False) -> list[Tensor]:
    """Losses and every gradient of two micro-batches."""
    compute = Compute(dtype="float32", compile=compiled, recompute="full", offload_residuals=offload)
    with torch.device("meta"):
        model = Bamba(CONFIG, compute.residual, 64)
    distribute(model, compute, world, low_memory=False)
    init_weights(model, CONFIG, 3)
    losses = []
    for seed in (1, 2):
        total, each = model.losses(*packed(LENGTHS, seed))
        torch.autograd.backward(total)
        losses.append(each)
    grads = [parameter.grad for parameter in model.parameters()]
    return [*losses, *(grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads)]  # type: ignore[misc]


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.costly)])
def test_losses_and_gradients_keep_every_bit(world: World, compiled: bool) -> None:
    wanted, got = learned(world, offload=False, compiled=compiled), learned(world, offload=True, compiled=compiled)
    assert [torch.equal(a, b) for a, b in zip(got, wanted, strict=True)] == [True] * len(wanted)


def noted(forward: Callable[..., Tensor], streams: list[StorageWeakRef]) -> Callable[..., Tensor]:
    """`forward`, which also notes the memory of its first argument."""

    def run(x: Tensor, *others: object) -> Tensor:
        streams.append(StorageWeakRef(x.untyped_storage()))
        return forward(x, *others)

    return run


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_stream_is_away_once_until_its_backward_and_then_gone(compiled: bool) -> None:
    torch._dynamo.reset()
    model, offload = Bamba(CONFIG), ResidualOffload()
    streams: list[StorageWeakRef] = []
    init_weights(model, CONFIG, 3)
    for block in model.blocks:
        forward: Callable[..., Tensor] = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
        if compiled:
            forward = torch.compile(forward, fullgraph=True, backend="aot_eager_decomp_partition")
        block.forward = noted(offload.of(forward), streams)  # type: ignore[method-assign]
    each = stream_bytes(CONFIG, Compute()) * sum(LENGTHS)
    for _ in range(2):
        total, _losses = model.losses(*packed(LENGTHS))
        assert offload.host_bytes == CONFIG.layers * each
        assert [stream.expired() for stream in streams] == [True] * CONFIG.layers
        streams.clear()
        torch.autograd.backward(total)
        del total, _losses
        assert offload.host_bytes == 0
    with torch.no_grad():
        model.logits(*packed(LENGTHS)[:3])
    assert offload.host_bytes == 0


def test_it_goes_with_blocks_that_are_recomputed_whole() -> None:
    for recompute in ("none", "selective"):
        with pytest.raises(UserError, match=f"offload_residuals: recompute is {recompute}"):
            load_recipe(RECIPE, ["compute.offload_residuals=true", f"compute.recompute={recompute}"])
    assert load_recipe(RECIPE, ["compute.offload_residuals=true", "compute.recompute=full"]).compute.offload_residuals
