"""The residual's sum and its norm are those of the model's own modules, in plain torch and in Triton."""

import pytest
import torch

from bamba_data.errors import UserError
from tests.trainer.kernels.cases import relative
from trainer.kernels import ops
from trainer.model.norm import RMSNorm


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm_of(width: int) -> RMSNorm:
    norm = RMSNorm(width, 1e-5)
    with torch.no_grad():
        norm.weight.copy_(drawn(width, seed=3))
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_torch_gives_the_bits_of_the_model(dtype: torch.dtype) -> None:
    norm = norm_of(48)
    x, branch = drawn(2, 3, 48).float(), drawn(2, 3, 48, seed=2).to(dtype)
    total, normed = ops.residual_norm(x, branch, norm.weight, norm.eps, dtype)
    assert torch.equal(total, x + branch) and total.dtype == torch.float32
    assert torch.equal(normed, norm(x + branch, dtype)) and normed.dtype == dtype


@pytest.mark.parametrize("width", [16, 96, 1000])
def test_the_kernel_gives_the_reference_s_numbers(triton_kernels: torch.device, width: int) -> None:
    x, branch, weight = drawn(2, 3, width), drawn(2, 3, width, seed=2), drawn(width, seed=3)
    wanted = ops.residual_norm(x, branch, weight, 1e-5, torch.float64)
    given = [tensor.float().to(triton_kernels) for tensor in (x, branch, weight)]
    got = ops.residual_norm(*given, 1e-5, torch.float32)
    assert all(relative(mine.double().cpu(), exact) < 1e-6 for mine, exact in zip(got, wanted, strict=True))


def test_the_norm_is_of_the_sum_as_it_is_kept(triton_kernels: torch.device) -> None:
    """In bfloat16 what the next layer adds to is a rounded sum: its norm is of that one."""
    x, branch = (drawn(4, 64, seed=seed).bfloat16().to(triton_kernels) for seed in (1, 2))
    weight = torch.ones(64, device=triton_kernels)
    total, normed = ops.residual_norm(x, branch, weight, 1e-5, torch.float32)
    torch.testing.assert_close(total, x + branch, rtol=2**-7, atol=0)  # the interpreter rounds towards zero
    wide = total.double().cpu()
    assert relative(normed.double().cpu(), wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)) < 1e-6


@pytest.mark.parametrize(
    ("shapes", "dtypes", "why"),
    [
        (((2, 8), (2, 7), (8,)), (torch.float32,) * 2, r"branch has the shape \(2, 7\), not \(2, 8\)"),
        (((2, 8), (2, 8), (4,)), (torch.float32,) * 2, r"weight has the shape \(4,\), not \(8,\)"),
        (((0, 8), (0, 8), (8,)), (torch.float32,) * 2, "nothing to compute"),
        (((1, 40_000), (1, 40_000), (40_000,)), (torch.float32,) * 2, "40,000 wide: 32,768 at most"),
        (((2, 8), (2, 8), (8,)), (torch.bfloat16, torch.float32), "branch is torch.float32, x torch.bfloat16"),
    ],
)
def test_what_it_cannot_add_is_refused_by_name(
    shapes: tuple[tuple[int, ...], ...], dtypes: tuple[torch.dtype, torch.dtype], why: str
) -> None:
    x, branch, weight = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(UserError, match=why):
        ops.residual_norm(x.to(dtypes[0]), branch.to(dtypes[1]), weight, 1e-5, torch.float32)
