"""Over micro-batches a product adds to the float32 sum of its weight's gradient: exact, in place, one graph for all."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tests.trainer.learners import HALF, learner
from tests.trainer.synthetic import Synthetic
from trainer.config import Compute
from trainer.data.batch import Batch
from trainer.distributed import fsdp, summing_linear
from trainer.distributed.fsdp import World
from trainer.distributed.summing_linear import SummingLinear
from trainer.kernels import add_product_op
from trainer.kernels.add_product_op import GradientSum, add_product
from trainer.loss import backward, summed_loss
from trainer.model.mlp import SquaredReLU
from trainer.optim.gradient_sync import GradientSync

#: The compiler imports what torch calls deprecated, and warns where a context is given to a checkpoint.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SEVERAL = [*HALF, "compute.micro_rows=2"]


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def unwritten(*shape: int) -> GradientSum:
    """A sum whose memory holds what would spoil it."""
    return GradientSum(torch.full(shape, torch.nan), torch.tensor(True))


def off(got: Tensor, exact: Tensor) -> float:
    """The largest error, of the largest number."""
    return float((got.double() - exact).abs().max() / exact.abs().max())


def a_batch() -> Batch:
    return Batch.of(next(iter(Synthetic(48, 6, 0, 1, 64))))


def test_a_product_begins_a_sum_and_goes_on_with_it_more_exactly_than_bfloat16_can() -> None:
    into, rounded, exact = unwritten(24, 16), torch.zeros(24, 16), torch.zeros(24, 16, dtype=torch.float64)
    for seed in range(3):
        grad, x = drawn(2, 50, 24, seed=seed), drawn(2, 50, 16, seed=9 + seed)
        add_product(into, grad, x)
        into = into.later()
        exact += grad.flatten(0, 1).double().T @ x.flatten(0, 1).double()
        rounded += grad.flatten(0, 1).T @ x.flatten(0, 1)
    assert off(into.total, exact) < 1e-6
    assert off(rounded, exact) > 1e-4


def test_torch_finds_nothing_wrong_with_the_op_and_counts_its_work() -> None:
    given = (torch.zeros(6, 4), drawn(8, 6), drawn(8, 4), torch.tensor(False))
    torch.library.opcheck(torch.ops.bamba.add_product.default, given)
    with FlopCounterMode(display=False) as counted:
        torch.ops.bamba.add_product(*given)
    assert counted.get_total_flops() == 2 * 8 * 6 * 4


class Stack(nn.Module):
    """Blocks of two linears, compiled as those of the model are."""

    def __init__(self, blocks: int, recompute: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SquaredReLU(32, 48) for _ in range(blocks)).bfloat16()
        draw = torch.Generator().manual_seed(1)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.1, generator=draw)
        summing_linear.convert(self.blocks)
        compute = Compute.model_validate({"compile": True, "recompute": recompute})
        for block in self.blocks:
            block.forward = fsdp._computed(block.forward, compute)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x

    @property
    def linears(self) -> list[SummingLinear]:
        return [module for module in self.modules() if isinstance(module, SummingLinear)]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_compiled_blocks_share_one_graph_that_writes_to_the_sum_itself(recompute: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    stack = Stack(3, recompute)
    first = torch.tensor(True)
    batches = [drawn(2, 20, 32, seed=seed).requires_grad_() for seed in range(3)]

    def learn(x: Tensor) -> None:
        stack(x).float().square().sum().backward()

    wanted, into_x = [], []
    for x in batches:
        learn(x)
        wanted.append([one.weight.grad.float() for one in stack.linears if one.weight.grad is not None])
        into_x.append(x.grad)
        x.grad = None
        stack.zero_grad()
    plain = counters["stats"]["unique_graphs"]
    for one in stack.linears:
        one.into = GradientSum(unwritten(*one.weight.shape).total, first)

    def learn_all() -> None:
        for number, x in enumerate(batches):
            first.fill_(number == 0)
            learn(x)

    _, code = run_and_get_code(learn_all)
    for x, grad in zip(batches, into_x, strict=True):
        assert x.grad is not None and torch.equal(x.grad, grad), "the input's gradient is not the same to the bit"
    assert counters["stats"]["unique_graphs"] == plain + 1 == 2
    for one, *parts in zip(stack.linears, *wanted, strict=True):
        assert one.weight.grad is None and one.into is not None
        assert 0 < off(one.into.total, sum(parts).double()) < 0.01
    written = [found for text in code for found in re.findall(r"ops\.bamba\.add_product\.default\(([^,]+),", text)]
    assert len(written) == 2
    assert all(re.fullmatch(r"primals_\d+", name) for name in written), f"copies of sums were written: {written}"


class Linears:
    """What the linears of a model are given, and what comes back: the exact sums of their weights' gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.exact: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, SummingLinear):
                module.register_forward_hook(partial(self._watch, f"{name}.weight"))

    def _watch(self, name: str, _: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        x = given[0].detach().flatten(0, -2).double()

        def add(grad: Tensor) -> None:
            product = grad.flatten(0, -2).double().T @ x
            self.exact[name] = self.exact[name] + product if name in self.exact else product

        out.register_hook(add)


def gradients(model: nn.Module, step: Callable[..., Any]) -> dict[str, Tensor]:
    """All that an update finds, of one step."""
    found: dict[str, Tensor] = {}
    step(
        a_batch(),
        1e-2,
        before_update=lambda: found.update(
            (name, value.grad.clone()) for name, value in model.named_parameters() if value.grad is not None
        ),
    )
    return found


def test_the_sums_of_a_step_are_the_exact_ones_and_every_step_writes_to_the_same_memory(world: World) -> None:
    model, _, step = learner(world, *SEVERAL)
    places = []
    for times in range(2):  # the second finds what the first one left
        linears = Linears(model)
        found = gradients(model, step)
        assert len(linears.exact) == len([one for one in model.modules() if isinstance(one, SummingLinear)]) > 4
        for name, exact in linears.exact.items():
            assert off(found[name], exact) < 1e-6, f"{name}, step {times}"
        places.append({name: total.data_ptr() for name, total in step.gradients._totals.items()})
    assert places[0] == places[1]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_head_adds_piece_by_piece_and_then_wants_nothing_multiplied() -> None:
    hidden, weight = drawn(50, 32).requires_grad_(), drawn(211, 32).requires_grad_()
    labels = torch.randint(0, 211, (50,), generator=torch.Generator().manual_seed(3))
    scale = torch.tensor(0.3)
    wide = [one.detach().double().requires_grad_() for one in (hidden, weight)]
    logits = (hidden @ weight.T).detach().double() + (wide[0] @ wide[1].T - (wide[0] @ wide[1].T).detach())
    loss = 0.3 * nn.functional.cross_entropy(logits, labels, reduction="sum")
    exact = torch.autograd.grad(loss, wide)[1]
    plain, _ = summed_loss(hidden, weight, labels, scale, 7)
    (into_hidden,) = torch.autograd.grad(plain, hidden)
    for chunk in (7, 100):
        into = unwritten(211, 32)
        total, _ = summed_loss(hidden, weight, labels, scale, chunk, into=into)
        backward(total)
        assert weight.grad is None and hidden.grad is not None
        torch.testing.assert_close(hidden.grad, into_hidden)
        hidden.grad = None
        assert off(into.total, exact) < 0.01  # the logits' gradient is bfloat16
    with torch.no_grad():
        before = into.total.clone()
        summed_loss(hidden, weight, labels, scale, 7, into=into)
        assert torch.equal(into.total, before), "a loss without gradients adds nothing"
    total, _ = summed_loss(hidden, weight, labels, scale, 7, into=into)
    with pytest.raises(AssertionError, match="nothing can be multiplied"):
        (2 * total).backward()


def test_a_step_of_one_micro_batch_has_autograd_s_bits_and_no_sums(world: World) -> None:
    model, _, step = learner(world, *HALF, "compute.micro_rows=6")
    batch = a_batch()
    total, _ = model.losses(
        batch.input_ids, batch.documents, batch.positions, batch.labels, torch.tensor(1.0 / batch.targets)
    )
    wanted = torch.autograd.grad(total, list(model.parameters()))
    found = gradients(model, step)
    for (name, _), grad in zip(model.named_parameters(), wanted, strict=True):
        assert torch.equal(found[name], grad) and found[name].dtype == grad.dtype, name
    assert not step.gradients._totals


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_gradient_is_told_complete_once_when_nothing_is_added_any_more_blocks_from_the_end(
    world: World, recompute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, step = learner(world, *SEVERAL, f"compute.recompute={recompute}")
    names = {value: name for name, value in model.named_parameters()}
    told: list[tuple[str, Tensor]] = []

    def note(_: GradientSync, parameter: Tensor) -> None:
        assert parameter.grad is not None
        told.append((names[parameter], parameter.grad.clone()))

    monkeypatch.setattr(GradientSync, "_complete", note)
    for _ in range(2):
        told.clear()
        found = gradients(model, step)
        matrices = [name for name, value in model.named_parameters() if value.dtype == torch.bfloat16]
        assert sorted(name for name, _ in told) == sorted(matrices)
        assert all(torch.equal(grad, found[name]) and grad.dtype == torch.float32 for name, grad in told)
        places = [int(name.split(".")[1]) for name, _ in told if name.startswith("blocks.")]
        assert places == sorted(places, reverse=True)
        assert told[0][0] == "head.weight" and told[-1][0] == "embedding.weight"


def test_a_weight_for_which_a_gpu_is_faster_otherwise_is_added_up_as_the_embedding_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, step = learner(world, *SEVERAL)
    wanted = gradients(model, step)
    shape = model.get_parameter("blocks.0.mlp.down.weight").shape
    alike = {name for name, value in model.named_parameters() if value.shape == shape}
    monkeypatch.setattr(add_product_op, "SLOWER", frozenset({tuple(shape)}))
    model, _, step = learner(world, *SEVERAL)
    found = gradients(model, step)
    assert {name for name, grad in found.items() if not torch.equal(grad, wanted[name])} == alike
    for name in alike:
        assert off(found[name], wanted[name].double()) < 0.01


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_compiled_graph_keeps_what_it_keeps_without_sums(recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    stack, x = Stack(1, recompute), drawn(2, 20, 32).requires_grad_()
    given = {one.weight.shape for one in stack.linears} | {torch.Size([])}

    def kept() -> list[torch.Size]:
        shapes: list[torch.Size] = []

        def note(saved: Tensor) -> Tensor:
            shapes.append(saved.shape)
            return saved

        with saved_tensors_hooks(note, lambda saved: saved):
            stack.blocks[0](x).sum()
        return sorted(shape for shape in shapes if shape not in given)

    plain = kept()
    for one in stack.linears:
        one.into = unwritten(*one.weight.shape)
    assert kept() == plain
    assert (plain == [x.shape]) == (recompute == "full")
