"""A cast to float8 both ways gives the codes that torch's own casts give, to the bit, whatever numbers and shape."""

import pytest
import torch
from torch import Tensor

from bamba_data.errors import UserError
from trainer.kernels import ops
from trainer.kernels.float8_cast_op import CODES

SHAPES = [(1, 1), (16, 16), (130, 257), (128, 128), (256, 384), (300, 48), (3, 1000)]


def by_torch(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """As torchao writes it."""
    largest = torch.finfo(dtype).max
    return (x.float() * scale).clamp(-largest, largest).to(dtype)


def drawn(height: int, width: int, of: torch.dtype) -> Tensor:
    """Of all sizes, so that some are below the smallest code and some above the largest."""
    generator = torch.Generator().manual_seed(height)
    x = torch.randn(height, width, generator=generator) * torch.exp(5 * torch.randn(height, width, generator=generator))
    return x.to(of)


def same(codes: Tensor, wanted: Tensor) -> bool:
    return torch.equal(codes.cpu().view(torch.uint8), wanted.view(torch.uint8))


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("of", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_kernel_s_codes_are_torch_s_as_they_lie_and_turned(
    triton_kernels: torch.device, height: int, width: int, of: torch.dtype, dtype: torch.dtype
) -> None:
    x, scale = drawn(height, width, of), torch.tensor(3.7)
    wanted = by_torch(x, scale, dtype)
    on = x.to(triton_kernels), scale.to(triton_kernels)
    rows, turned = ops.float8_cast(*on, dtype)
    assert rows.shape == (height, width) and turned.shape == (width, height) and turned.is_contiguous()
    assert same(rows, wanted) and same(turned, wanted.t().contiguous())


@pytest.mark.parametrize("height", [1, 128], ids=["any size", "whole tiles"])
@pytest.mark.parametrize("dtype", CODES)
def test_every_code_and_every_place_between_two_is_rounded_as_torch_does(
    triton_kernels: torch.device, dtype: torch.dtype, height: int
) -> None:
    """Codes, the middles of neighbours, and a little beside; signs, zeros, what is no number or beyond all."""
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    finite = codes[codes.isfinite()].sort().values
    middles = (finite[1:] + finite[:-1]) / 2
    beside = [middles * (1 + 2**-20), middles * (1 - 2**-20)]
    odd = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 1e-30, -1e-30])
    x = torch.cat([finite, middles, *beside, odd])
    x = torch.cat([x, x.new_zeros(-len(x) % 128)]).expand(height, -1)
    one = torch.ones(())
    rows, turned = ops.float8_cast(x.to(triton_kernels), one.to(triton_kernels), dtype)
    wanted = by_torch(x, one, dtype)
    assert same(rows, wanted) and same(turned, wanted.t().contiguous())


def test_a_matrix_that_is_a_part_of_another_or_turned_is_cast_as_it_is(triton_kernels: torch.device) -> None:
    scale = torch.ones(())
    whole = drawn(256, 272, torch.bfloat16)
    for x in (whole[3:30, 16:70], whole[100:228, 32:160], whole.t(), whole[:, 128:256].t()):
        rows, turned = ops.float8_cast(x.to(triton_kernels), scale.to(triton_kernels), CODES[0])
        wanted = by_torch(x, scale, CODES[0]).contiguous()
        assert same(rows, wanted) and same(turned, wanted.t().contiguous())


def test_what_there_is_no_cast_for_is_refused() -> None:
    x, scale = torch.zeros(4, 4), torch.ones(())
    for given in ((x[0], scale), (x.double(), scale), (x[:0], scale), (x, torch.ones(4)), (x, scale.double())):
        with pytest.raises(UserError, match="float8_cast: "):
            ops.float8_cast(*given, CODES[0])
    with pytest.raises(UserError, match=r"float8_cast: to torch\.float16"):
        ops.float8_cast(x, scale, torch.float16)


def test_torch_finds_nothing_wrong_with_the_op() -> None:
    torch.library.opcheck(torch.ops.bamba.float8_cast.default, (torch.randn(5, 3), torch.ones(()), CODES[1]))
