"""What a GPU gets compiled computes on a CPU, compiled by the same compiler, what it computes uncompiled."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import trainer
from tests.trainer.learners import HALF, learner
from tests.trainer.synthetic import Synthetic
from trainer import compiled
from trainer.data.batch import Batch
from trainer.distributed.fsdp import World
from trainer.model.document_mask import document_block_mask, document_mask

#: torch's compiler imports what torch calls deprecated, and looks at gradients with a warning that it hides
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def a_loss() -> list[Tensor | float]:
    return [noise(10, 50), torch.tensor([-100, *range(9)]), torch.tensor(0.1)]


def a_sum() -> list[Tensor | float]:
    return [noise(64, 16), noise(64, 16).bfloat16()]


def parts_of_other_ranks() -> list[Tensor | float]:
    return [noise(64, 16).bfloat16(), noise(3, 64, 16).bfloat16()]


CASES: dict[str, Callable[[], list[Tensor | float]]] = {
    "bamba.trainer.optim.gradient_sync._add_to": a_sum,
    "bamba.trainer.distributed.peer_copies._add_parts": parts_of_other_ranks,
    "bamba.trainer.loss._logit_gradients_fused": a_loss,
}


@pytest.mark.parametrize("name", CASES)
def test_a_fused_function_computes_the_same_compiled(name: str) -> None:
    run = compiled.FUSED[name]
    plain, fused = CASES[name](), CASES[name]()
    wanted = run(*plain)
    with compiled.everywhere():
        got = run(*fused)
    for ours, theirs in zip([got, *fused], [wanted, *plain], strict=True):
        if isinstance(ours, Tensor):
            assert isinstance(theirs, Tensor)
            torch.testing.assert_close(ours.detach().float(), theirs.detach().float(), rtol=1e-2, atol=1e-5)


def test_every_function_that_a_gpu_gets_compiled_has_a_case_here() -> None:
    assert compiled.FUSED.keys() == CASES.keys()
    found = {file.name for file in Path(trainer.__path__[0]).rglob("*.py") if "torch.compile(" in file.read_text()}
    assert found == {"compiled.py", "fsdp.py"}  # the blocks: the test of a whole step, below


def test_kernels_stay_in_one_place_whether_the_compiler_compiles_or_finds_its_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    compiled.keep_kernels_in_one_place()
    assert os.environ["TRITON_CACHE_DIR"] == str(Path.home() / ".triton" / "cache")
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    compiled.keep_kernels_in_one_place()
    assert os.environ["TRITON_CACHE_DIR"] == "mine"


def taken(world: World, *changes: str) -> list[float]:
    """The losses of three steps of several micro-batches."""
    _, optimizer, step = learner(world, *changes, "compute.micro_rows=2")
    batches = iter(Synthetic(48, 6, 0, 1, 64))
    losses = [step(Batch.of(next(batches)), 5e-3).read().loss for _ in range(3)]
    assert optimizer.updates == 3
    return losses


@pytest.mark.costly
def test_half_the_memory_and_several_micro_batches_take_their_steps_all_compiled(world: World) -> None:
    wanted = taken(world, *HALF)
    with compiled.everywhere():
        assert taken(world, *HALF, "compute.compile=true") == pytest.approx(wanted, rel=0.01)


def test_attention_compiled_by_blocks_sees_what_a_mask_shows() -> None:
    """Forward: on a CPU it has no backward (the GPU's script takes it)."""
    from torch.nn.attention.flex_attention import flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    documents = (torch.arange(160)[None] // 60).int()
    q, k = noise(1, 4, 160, 16), noise(1, 2, 160, 16)
    with torch.no_grad():
        got = torch.compile(flex_attention, fullgraph=True)(
            q, k, k, block_mask=document_block_mask(documents), enable_gqa=True
        )
        wanted = scaled_dot_product_attention(q, k, k, attn_mask=document_mask(documents), enable_gqa=True)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
