"""The update's kernel takes the step of the plain form with the same random bits, on any number of elements."""

import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from bamba_data.errors import UserError
from trainer.kernels import ops, reference

BETA1, BETA2, EPS, LR, DECAY = 0.9, 0.95, 1e-8, 1e-3, 0.1
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Case(NamedTuple):
    """What `ops.adamw_step` takes before the betas."""

    weight: Tensor
    grad: Tensor
    first: Tensor
    second: Tensor
    salt: Tensor
    numbers: Tensor
    healthy: Tensor

    def on(self, device: torch.device) -> "Case":
        """A copy there."""
        return Case(*(tensor.to(device, copy=True) for tensor in self))

    def stepped(self) -> list[Tensor]:
        """Weight and moments after a step, on the CPU."""
        ops.adamw_step(*self, BETA1, BETA2)
        return [self.weight.cpu(), self.first.cpu(), self.second.cpu()]


def numbers(moved: int, divide_by: float = 1.7) -> Tensor:
    part, root = 1 - BETA1**moved, (1 - BETA2**moved) ** 0.5
    return torch.tensor([1 / divide_by, 1 - LR * DECAY, LR * root / part, EPS * root, moved])


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16, moved: int = 3) -> Case:
    make = torch.Generator().manual_seed(len(shape) + shape[0])
    weight, grad, first, second = (torch.randn(shape, generator=make) for _ in range(4))
    low = (0.02 * weight).bfloat16(), (1e-3 * grad).to(dtype), (3e-4 * first).bfloat16()
    square = (1e-3 * second).square().bfloat16()
    return Case(*low, square, torch.tensor([12345, 0], dtype=torch.int32), numbers(moved), torch.tensor(True))


def order(x: Tensor) -> Tensor:
    """bfloat16 as whole numbers: neighbours are one apart."""
    bits = x.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def close(got: list[Tensor], wanted: list[Tensor]) -> bool:
    """The same bits in the interpreter, whose single operations are rounded as torch's are. A GPU adds and multiplies
    at once and divides to 2 units of the last digit of float32, and of 65,536 drawn numbers one makes of such a unit a
    step of bfloat16: there all are within a step, and a thousandth is other ones at the most. What two large numbers
    leave of each other may be many of its own small steps apart: as far as the large ones are rounded."""
    pairs = list(zip(got, wanted, strict=True))
    if not torch.cuda.is_available():
        return all(torch.equal(ours, theirs) for ours, theirs in pairs)
    return all(near(*pair) for pair in pairs)


def near(ours: Tensor, theirs: Tensor) -> bool:
    """As `close` allows a GPU."""
    steps = (order(ours) - order(theirs)).abs()
    left_over = (ours.float() - theirs.float()).abs() <= 2**-22 * theirs.float().abs().max()
    return bool(((steps <= 1) | left_over).all()) and bool((steps > 0).sum() <= 1 + 1e-3 * steps.numel())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (48, 16), (2, 2048), (3, 4096), (129, 33), (40, 1000)])
def test_the_kernel_takes_the_step_of_the_plain_form(
    triton_kernels: torch.device, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    case = drawn(*shape, dtype=dtype)
    ours = case.on(triton_kernels)
    got = ours.stepped()
    reference.adamw_step(*case, BETA1, BETA2)
    assert close(got, [case.weight, case.first, case.second])
    assert torch.equal(ours.grad.cpu(), case.grad)


@needs_gpu
@pytest.mark.parametrize("shape", [(28_672, 4096), (16_896, 4), (4097, 4097)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_large_matrix_is_stepped_on_a_gpu_as_the_plain_form_does_it_there(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    ours = drawn(*shape, dtype=dtype).on(torch.device("cuda"))
    plain = ours.on(ours.weight.device)
    got = ours.stepped()
    reference.adamw_step(*plain, BETA1, BETA2)
    assert close(got, [plain.weight.cpu(), plain.first.cpu(), plain.second.cpu()])


@pytest.mark.parametrize("width", [32, 33])
def test_rows_of_a_matrix_are_stepped_alone_as_in_the_whole_and_nothing_beside_them(
    triton_kernels: torch.device, width: int
) -> None:
    """Ranks that share a matrix draw the bits of their own elements."""
    case = drawn(90, width).on(triton_kernels)
    part = case.on(triton_kernels)
    before = [tensor.clone().cpu() for tensor in part[:4]]
    wanted = case.stepped()
    for begin, end in ((31, 64), (64, 90)):
        salt = part.salt + torch.tensor([0, begin * width], dtype=torch.int32, device=triton_kernels)
        Case(*(tensor[begin:end] for tensor in part[:4]), salt, part.numbers, part.healthy).stepped()
    for got, whole, was in zip((part.weight, part.first, part.second), wanted, (before[0], *before[2:]), strict=True):
        assert torch.equal(got.cpu()[31:], whole[31:]) and torch.equal(got.cpu()[:31], was[:31])


@pytest.mark.parametrize("kernel", [True, False])
def test_an_unhealthy_step_changes_no_bit(
    triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    if not kernel:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = drawn(70, 33).on(triton_kernels if kernel else torch.device("cpu"))
    case.grad[3], case.weight[4], case.second[5] = torch.nan, torch.inf, torch.nan
    case.numbers[0] = torch.nan
    case.healthy.fill_(False)
    before = [tensor.view(torch.int16).cpu().clone() for tensor in case[:4]]
    case.stepped()
    assert all(torch.equal(now.view(torch.int16).cpu(), was) for now, was in zip(case[:4], before, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.parametrize("kernel", [True, False])
def test_what_is_no_number_or_infinite_stays_so(
    triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    """A GPU's NaN is all ones, of which a carry would make zero. (A moment that is infinite already is none the next
    time: infinite less infinite.)"""
    if not kernel:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = drawn(8, 512, dtype=torch.float32)
    case.grad[0], case.grad[1], case.first[2], case.second[3] = torch.nan, torch.inf, torch.nan, torch.nan
    case.weight[4], case.weight[5], case.second[6] = torch.nan, -torch.inf, torch.inf
    case.grad[0, ::2] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    weight, first, second = case.on(triton_kernels if kernel else torch.device("cpu")).stepped()
    assert all(weight[row].isnan().all() for row in range(5))
    assert (weight[5] == -torch.inf).all() and weight[6].isnan().all() and weight[7].isfinite().all()
    assert first[0].isnan().all() and (first[1] == torch.inf).all() and first[2].isnan().all()
    assert first[3:].isfinite().all()
    assert second[0].isnan().all() and (second[1] == torch.inf).all() and second[3].isnan().all()
    assert second[6].isnan().all() and second[[2, 4, 5, 7]].isfinite().all()


@pytest.mark.parametrize(("moved", "divide_by"), [(1, 1.0), (3, 1.7), (1000, 1.7)])
def test_before_it_is_rounded_a_step_is_as_near_to_float64_as_with_a_division_for_each_number(
    triton_kernels: torch.device, moved: int, divide_by: float
) -> None:
    """Weights of zero, so that all of the step is seen: its mean error, and whether it leans to one side."""
    from tests.trainer.kernels.unrounded import unrounded

    case = drawn(1 << 18, moved=moved)
    case.weight.zero_()
    wide = [tensor.float().to(triton_kernels) for tensor in case[:4]]
    clipped = torch.tensor(divide_by, device=triton_kernels)
    wanted = by_division([tensor.double() for tensor in wide], clipped.double(), clipped.new_tensor(moved).double())
    known = by_division(wide, clipped, clipped.new_tensor(moved))
    got = unrounded(wide, numbers(moved, clipped.item()).to(triton_kernels), BETA1, BETA2)
    size = wanted[0].abs().sum()
    error, before = (((step[0] - wanted[0]).abs().sum() / size).item() for step in (got, known))
    leaning = (((got[0] - wanted[0]) * wanted[0].sign()).sum() / size).item()
    print(f"update {moved}: {error:.3g} of a step, {leaning:.3g} to one side; {before:.3g} with divisions")
    # 2^-24 is 6e-8: what leans is the rounding of the factors, the same for all elements of an update. The root and
    # the division of a GPU are to 2^-23 and 2^-22, where torch rounds both to 2^-24.
    assert error < (1.5e-7 if torch.cuda.is_available() else max(7e-8, before))
    assert abs(leaning) < 1e-7
    for ours, exact in zip(got[1:], wanted[1:], strict=True):
        assert (ours - exact).abs().max() < 2e-7 * exact.abs().max()


def by_division(given: list[Tensor], divide_by: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step and the moments as the textbook has them, in the precision of what is given."""
    _, grad, first, second = given
    slope = grad / divide_by
    mean, square = first.lerp(slope, 1 - BETA1), second.lerp(slope * slope, 1 - BETA2)
    towards = mean / (1 - BETA1**moved) / ((square / (1 - BETA2**moved)).sqrt() + EPS)
    return -LR * towards, mean, square


TTIR = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from trainer.kernels.adamw_step import _adamw_step as kernel

kinds = {"grad": "*fp32", "salt": "*i32", "numbers": "*fp32", "healthy": "*i1", "count": "i64", "rest1": "fp32",
         "rest2": "fp32", "WHOLE": "constexpr", "BLOCK": "constexpr"}
kinds = {name: kinds.get(name, "*bf16") for name in kernel.arg_names}
source = ASTSource(kernel, kinds, {"WHOLE": False, "BLOCK": 2048})
print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"])
"""


def test_places_past_two_to_the_thirty_first_elements_are_computed_in_64_bits() -> None:
    """By its code, since so large a matrix has 17 GB: nothing but the widened number of a program is used."""
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", TTIR], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (program,) = re.findall(r"(%\w+) = tt\.get_program_id x", done.stdout)
    (use,) = [
        line for line in done.stdout.splitlines() if re.search(rf"= .*{program}\b", line) and "get_pro" not in line
    ]
    assert re.search(r"arith\.extsi .* : i32 to i64", use)
    assert len(re.findall(r"tt\.addptr %(?:weight|grad|first|second), %\w+ : !tt\.ptr<\w+>, i64", done.stdout)) == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"weight": torch.zeros(4, 6)}, r"weight is torch\.float32 of shape \(4, 6\)"),
        ({"grad": torch.zeros(4, 6).half()}, r"grad is torch\.float16 .* and torch\.bfloat16 or torch\.float32"),
        ({"first": torch.zeros(6, 4).bfloat16()}, r"first is torch\.bfloat16 of shape \(6, 4\)"),
        ({"second": torch.zeros(6, 4).bfloat16().t()}, r"second .* strides \(1, 4\), not contiguous"),
        ({"salt": torch.tensor(3)}, r"salt is torch\.int64 of shape \(\) on cpu, not 2 of torch\.int32"),
        ({"numbers": torch.zeros(4)}, r"numbers is torch\.float32 of shape \(4,\)"),
        ({"healthy": torch.ones(())}, r"healthy is torch\.float32"),
    ],
)
def test_what_there_is_no_step_for_is_refused_by_name(change: dict[str, Tensor], why: str) -> None:
    with pytest.raises(UserError, match="adamw_step: " + why):
        ops.adamw_step(*drawn(4, 6)._replace(**change), BETA1, BETA2)
    empty = drawn(4, 6)
    with pytest.raises(UserError, match="nothing to update"):
        ops.adamw_step(*(tensor[:0] for tensor in empty[:4]), *empty[4:], BETA1, BETA2)
