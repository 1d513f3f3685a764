"""Half the memory learns the same: bfloat16 weights and moments, rounded at random and yet always alike."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from bamba_data.errors import RecipeError
from tests.trainer.job import RECIPE
from tests.trainer.learners import HALF, learner
from tests.trainer.running import bits, job, losses, newest_folder
from tests.trainer.synthetic import Synthetic
from trainer.config import Optimizer, load_recipe
from trainer.data.batch import Batch
from trainer.distributed.fsdp import World
from trainer.distributed.row_exchange import norms
from trainer.kernels.adamw_reference import moved_by, rounded
from trainer.model.bamba import vector_parameters
from trainer.optim.stochastic_rounding import Rates, salt, update
from trainer.train import train

pytestmark = pytest.mark.slow

SHORT = ["schedule.steps=4", "checkpoints.every_steps=2"]


def learned(world: World, steps: int, *changes: str) -> list[float]:
    """The loss of every step."""
    _, _, step = learner(world, *changes)
    batches = iter(Synthetic(48, 6, 0, 1, 64))
    return [step(Batch.of(next(batches)), 5e-3).read().loss for _ in range(steps)]


@pytest.mark.costly
def test_it_learns_as_fast_as_with_float32_weights_and_moments(world: World) -> None:
    full = learned(world, 24, "compute.dtype=bfloat16")
    low = learned(world, 24, *HALF)
    assert full[-1] < 0.5 * full[0]
    assert low == pytest.approx(full, rel=0.05)
    assert sum(low[-10:]) == pytest.approx(sum(full[-10:]), rel=0.02)


def test_matrices_their_gradients_and_moments_take_two_bytes_each_and_vectors_stay_float32(world: World) -> None:
    model, optimizer, step = learner(world, *HALF, "compute.micro_rows=6")
    small = dict(vector_parameters(model))
    seen = []
    step(
        Batch.of(next(iter(Synthetic(48, 6, 0, 1, 64)))),
        1e-2,
        before_update=lambda: seen.extend(
            (name, value.dtype, value.grad.dtype) for name, value in model.named_parameters() if value.grad is not None
        ),
    )
    assert len(seen) == len(optimizer.parameters)
    for name, weight, grad in seen:
        wanted = torch.float32 if name in small else torch.bfloat16
        assert {weight, grad, optimizer.first[name].dtype, optimizer.second[name].dtype} == {wanted}


def test_gradients_of_several_micro_batches_are_summed_in_float32(world: World) -> None:
    model, _, step = learner(world, *HALF, "compute.micro_rows=1")
    seen = set()
    step(
        Batch.of(next(iter(Synthetic(48, 6, 0, 1, 64)))),
        1e-2,
        before_update=lambda: seen.update(value.grad.dtype for value in model.parameters() if value.grad is not None),
    )
    assert seen == {torch.float32}


def test_the_sum_over_micro_batches_of_what_no_product_sums_has_the_bits_of_float32_additions(world: World) -> None:
    model, _, step = learner(world, *HALF, "compute.micro_rows=2")
    small = dict(vector_parameters(model))
    for times in range(2):  # the second step begins with what the first one left
        batch = Batch.of(next(iter(Synthetic(48, 6, 0, 1, 64))))
        scale = torch.tensor(1.0 / batch.targets)
        wanted: dict[str, torch.Tensor] = {}
        for part in batch.micro(2):
            total, _ = model.losses(part.input_ids, part.documents, part.positions, part.labels, scale)
            made = torch.autograd.grad(total, list(model.parameters()))
            for (name, _), grad in zip(model.named_parameters(), made, strict=True):
                wanted[name] = wanted[name] + grad.float() if name in wanted else grad.float()
        seen: dict[str, torch.Tensor] = {}
        step(
            batch,
            1e-2,
            before_update=lambda seen=seen: seen.update(  # type: ignore[misc]
                (name, value.grad.clone()) for name, value in model.named_parameters() if value.grad is not None
            ),
        )
        assert seen.keys() == wanted.keys()
        for name, grad in seen.items():
            if name == "embedding.weight" or name in small:
                assert torch.equal(grad, wanted[name]), f"{name}, step {times}"
            else:  # the sum of exact products, test_product_sums.py; here of rounded ones
                assert (grad - wanted[name]).abs().max() < 0.01 * wanted[name].abs().max(), f"{name}, step {times}"


def test_a_step_without_a_finite_gradient_changes_no_bit(world: World) -> None:
    model, optimizer, step = learner(world, *HALF)
    batch = Batch.of(next(iter(Synthetic(48, 6, 0, 1, 64))))
    step(batch, 1e-2)
    before = {name: value.clone() for name, value in optimizer.state()}
    weights = [value.detach().clone() for value in model.parameters()]
    (model.losses(batch.input_ids, batch.documents, batch.positions, batch.labels)[0] * torch.nan).backward()
    norm = optimizer.gradient_norm()
    optimizer.update(1e-2, norm, torch.isfinite(norm))
    assert norm.isnan()
    assert all(torch.equal(value, before[name]) for name, value in optimizer.state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


def test_a_norm_has_the_same_bits_alone_and_among_others() -> None:
    """Ranks that take some of them earlier must clip alike."""
    make = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, generator=make) for size in (70_001, 3, 1 << 18, 5, 129)]
    grads = [one.bfloat16() if number % 2 == 0 else one for number, one in enumerate(drawn)]
    together = norms(grads)
    assert all(torch.equal(one, norms([grad])[0]) for one, grad in zip(together, grads, strict=True))
    exact = torch.stack([grad.double().norm() for grad in grads])
    torch.testing.assert_close(torch.stack(together).double(), exact, rtol=1e-5, atol=0)
    assert {one.dtype for one in together} == {torch.float32} and norms([]) == []


def test_steps_far_below_the_spacing_of_bfloat16_add_up_in_the_mean() -> None:
    rule = Optimizer(weight_decay=0.0)
    weight = torch.ones(1 << 16).bfloat16()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    key = salt("a", weight)
    for moved in range(1, 65):
        numbers = (torch.tensor(value) for value in (1e-4, 0.0, 1.0, float(moved)))
        rates = Rates.of(rule, *numbers, torch.tensor(True))
        update(weight, torch.full_like(weight, 0.5), first, second, key, rates, rule)
    assert 1e-4 < 2**-8 / 2 / 16  # the nearest bfloat16 below 1 is 2^-8 away: rounded to the nearest, nothing moves
    assert weight.float().mean().item() == pytest.approx(1 - 64e-4, abs=1e-4)


@pytest.mark.parametrize("moved", [1, 2, 100_000])
def test_the_numbers_that_a_step_shares_make_the_textbook_s_step(moved: int) -> None:
    rule = Optimizer(beta1=0.9, beta2=0.95, eps=1e-4)
    make = torch.Generator().manual_seed(moved)
    weight, grad, first, second = (1e-2 * torch.randn(1000, generator=make).double() for _ in range(4))
    second = second.square()
    rates = Rates.of(rule, *(torch.tensor(x) for x in (2e-3, 0.1, 1.7, float(moved))), torch.tensor(True))
    given = (weight, grad, first, second, *rates.numbers[:4].double())
    got, mean, square = moved_by(*given, 1 - rule.beta1, 1 - rule.beta2)
    assert rates.numbers[4] == moved
    torch.testing.assert_close(mean, 0.9 * first + 0.1 * grad / 1.7)
    torch.testing.assert_close(square, 0.95 * second + 0.05 * (grad / 1.7).square())
    towards = mean / (1 - 0.9**moved) / ((square / (1 - 0.95**moved)).sqrt() + 1e-4)
    torch.testing.assert_close(got, weight - 2e-3 * 0.1 * weight - 2e-3 * towards, rtol=1e-6, atol=1e-9)


def test_a_number_of_bfloat16_is_rounded_to_itself_whatever_is_drawn() -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    for drawn in (0, 0x8000, 0xFFFF):
        assert torch.equal(rounded(exact.float(), torch.full((1000,), drawn, dtype=torch.int32)), exact)


def run(world: World, out: Path) -> None:
    """Four steps, saved after every second."""
    recipe = load_recipe(RECIPE, [*HALF, *SHORT])
    feed = Synthetic(recipe.data.row_tokens, recipe.data.batch_rows, 0, 1, recipe.model.vocab_size)
    train(recipe, feed, world, str(out), out, accept_changes=False)


def test_a_resumed_run_has_the_bits_of_one_that_was_never_stopped_and_two_ranks_go_on_from_it(
    world: World, tmp_path: Path
) -> None:
    whole, resumed, shared = tmp_path / "whole", tmp_path / "resumed", tmp_path / "shared"
    run(world, whole)
    for copy in (resumed, shared):
        shutil.copytree(whole, copy)
        shutil.rmtree(newest_folder(copy))
        (copy / "metrics.jsonl").unlink()
    run(world, resumed)
    assert losses(resumed).keys() == {3, 4}
    assert bits(resumed) == bits(whole)
    done = job(shared, 2, *HALF, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "goes on after step 2 (saved by 1 ranks, now 2)" in done.stderr
    assert losses(shared)[4] == pytest.approx(losses(whole)[4], rel=1e-3)


@pytest.mark.parametrize(("ranks", "shard_ranks"), [(4, 2), (2, 1)])
def test_copies_of_the_model_keep_the_same_bits(tmp_path: Path, ranks: int, shard_ranks: int) -> None:
    """Held by two ranks together, or by one whole; several micro-batches on each. Else they would drift apart."""
    changes = [*HALF, *SHORT, "compute.micro_rows=1", f"compute.shard_ranks={shard_ranks}"]
    done = job(tmp_path / "run", ranks, *changes, env={"TRAINER_BITS": "1"})
    assert done.returncode == 0, done.stderr
    bits = {int(rank): digest for rank, digest in re.findall(r"bits of (\d): (\w+)", done.stdout)}
    assert len(bits) == ranks
    assert all(bits[rank] == bits[rank % shard_ranks] for rank in bits)
    alone = job(tmp_path / "alone", 1, *changes[:-1])
    assert alone.returncode == 0, alone.stderr
    assert losses(tmp_path / "run")[4] == pytest.approx(losses(tmp_path / "alone")[4], rel=1e-3)


def test_half_the_memory_is_refused_where_the_products_are_float32() -> None:
    with pytest.raises(RecipeError, match=r"optimizer\.memory: low keeps bfloat16 weights only"):
        load_recipe(RECIPE, ["optimizer.memory=low"])
