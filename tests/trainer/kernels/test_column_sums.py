"""The sums that become the gradients of parameters: those of float64, in the order and dtype of their tensors, and the
same bits whatever the launch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from tests.trainer.kernels.cases import relative
from trainer.kernels import column_sums, reference
from trainer.kernels.launch import Launch

NAMES = ("conv_weight", "conv_bias", "A_log", "D", "dt_bias", "norm_weight")
#: rows of the tables of scan, convolution and norm; heads, channels, inner
SHAPES = [
    pytest.param((1, 1, 1), (1, 48, 16), id="one row"),
    pytest.param((2, 3, 264), (3, 49, 33), id="odd sizes"),
    pytest.param((65, 130, 63), (40, 80, 64), id="steps that are not whole"),
]


def drawn(rows: Sequence[int], sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of scan, convolution and norm, in float32."""
    make = torch.Generator().manual_seed(0)
    heads, channels, inner = sizes
    shapes = ((rows[0], 3, heads), (rows[1], 5, channels), (rows[2], inner))
    scan, conv, norm = (torch.randn(shape, generator=make) for shape in shapes)
    return scan, conv, norm


def parameters(sizes: Sequence[int], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Like a block's: those of the scan in float32."""
    heads, channels, inner = sizes
    shapes = ((channels, 4), (channels,), (heads,), (heads,), (heads,), (inner,))
    dtypes = (dtype, dtype, *[torch.float32] * 3, dtype)
    return [torch.zeros(shape, dtype=kind, device=device) for shape, kind in zip(shapes, dtypes, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "sizes"), SHAPES)
def test_sums_are_those_of_float64_in_the_dtype_of_their_parameters(
    triton_kernels: torch.device, rows: tuple[int, ...], sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    tables = drawn(rows, sizes)
    like = parameters(sizes, dtype, triton_kernels)
    got = column_sums.column_sums(like, *(table.to(triton_kernels) for table in tables))
    exact = reference.column_sums([one.cpu().double() for one in like], *(table.double() for table in tables))
    assert [(one.shape, one.dtype) for one in got] == [(one.shape, one.dtype) for one in like]
    for name, mine, wanted in zip(NAMES, got, exact, strict=True):
        # 2^-7: the interpreter rounds bfloat16 towards zero
        bound = 3e-7 if mine.dtype == torch.float32 else 2**-7
        assert relative(mine.cpu().double(), wanted) < bound, name
    assert len({one.untyped_storage().data_ptr() for one in got}) == len(got)


def test_the_sums_of_a_scan_alone_are_those_of_the_whole(triton_kernels: torch.device) -> None:
    tables = [table.to(triton_kernels) for table in drawn((70, 2, 2), (5, 16, 16))]
    like = parameters((5, 16, 16), torch.float32, triton_kernels)
    alone = column_sums.column_sums(like[2:5], tables[0])
    for one, other in zip(alone, column_sums.column_sums(like, *tables)[2:5], strict=True):
        assert torch.equal(one, other)


def test_no_digit_is_lost_among_many_rows(triton_kernels: torch.device) -> None:
    """4,096 rows of positive numbers: one after the other they would be off by the rounding of thousands of sums."""
    scan = torch.rand((4096, 3, 8), generator=torch.Generator().manual_seed(1))
    like = [torch.zeros(8, device=triton_kernels) for _ in range(3)]
    exact = scan.double().sum(0)
    by_torch = float(((scan.sum(0).double() - exact) / exact).abs().max())
    got = torch.stack(column_sums.column_sums(like, scan.to(triton_kernels))).cpu().double()
    assert float(((got - exact) / exact).abs().max()) <= max(by_torch, 2e-7)


@pytest.mark.parametrize("launch", [Launch(4, block=32), Launch(1, block=32), Launch(8, block=128)])
def test_bits_are_the_same_whatever_the_launch(
    triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch, launch: Launch
) -> None:
    sizes = (3, 49, 33)
    tables = [table.to(triton_kernels) for table in drawn((67, 130, 70), sizes)]
    like = parameters(sizes, torch.float32, triton_kernels)
    before = column_sums.column_sums(like, *tables)
    monkeypatch.setattr(column_sums, "SUMS", launch)
    after = column_sums.column_sums(like, *tables)
    assert [name for name, a, b in zip(NAMES, before, after, strict=True) if not torch.equal(a, b)] == []
