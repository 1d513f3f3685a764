"""The convolution's two ways through a stretch of tokens: each computes the definition, and both the same bits."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from tests.trainer.kernels.cases import relative, rows_of_documents
from trainer.kernels.launch import Launch

TOKENS = 41  # two strips of the forward and of the backward here, the second not full; plain stretches in both
CLOSE = 1e-6


@pytest.fixture(params=[16])
def device(
    request: pytest.FixtureRequest, triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> torch.device:
    """Where the kernels run, with short strips and blocks of so many channels."""
    from trainer.kernels import conv

    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(conv, f"{name}_STRIP", 32)
        monkeypatch.setattr(getattr(conv, name), "launch", Launch(warps=1, block=request.param))
    return triton_kernels


def drawn(batch: int, tokens: int, channels: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the output: the same row in all of the batch."""
    make = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 1, tokens, channels, generator=make).expand(2, batch, tokens, channels).contiguous()
    return x, torch.randn(channels, 4, generator=make) / 2, torch.randn(channels, generator=make) / 2, grad


def defined(x: Tensor, weight: Tensor, bias: Tensor, documents: Tensor) -> Tensor:
    """The convolution from its definition."""
    total = bias + x * weight[:, 3]
    for back in range(1, min(4, x.shape[1])):
        same = (documents[:, back:] == documents[:, :-back])[..., None]
        tap = torch.where(same, x[:, :-back] * weight[:, 3 - back], 0)
        total = total + torch.cat([torch.zeros_like(x[:, :back]), tap], 1)
    return silu(total)


def results(
    x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, documents: Tensor, device: torch.device
) -> list[Tensor]:
    """The kernels' output, gradient of x, of weight and of bias. x and its gradient are views of wider rows."""
    from trainer.kernels.conv import conv_backward, conv_forward

    wide = torch.cat([x.new_zeros(*x.shape[:2], 16), x], -1).to(device)
    x, weight, bias, grad, documents = wide[..., 16:], *(t.to(device) for t in (weight, bias, grad, documents))
    out = conv_forward(x, weight, bias, documents)
    dx = torch.full_like(wide, torch.nan)[..., 16:]
    total = conv_backward(x, weight, bias, documents, grad, dx).sum(0)
    return [t.cpu() for t in (out, dx, total[:4].T, total[4])]


def wanted(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, documents: Tensor) -> list[Tensor]:
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    out = defined(*leaves, documents)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.double())]


@pytest.mark.parametrize("device", [16, 64], ids=["whole blocks", "a block that is not filled"], indirect=True)
@pytest.mark.parametrize("tokens", [1, 3, 8, 33])
def test_rows_of_any_length_are_right(device: torch.device, tokens: int) -> None:
    documents = rows_of_documents(2, tokens, [[], [tokens // 2]])
    given = drawn(2, tokens)
    got = results(*given, documents, device)
    assert [relative(a.double(), b) < CLOSE for a, b in zip(got, wanted(*given, documents), strict=True)] == [True] * 4


def test_a_border_at_any_token_is_right_and_changes_no_bit_away_from_it(device: torch.device) -> None:
    """Row 0 is of one document; what the others have elsewhere than at their border it computes in the other way."""
    borders = [*range(1, TOKENS)] if device.type == "cuda" else [1, *range(16, 25), 32, 33]
    documents = rows_of_documents(1 + len(borders), TOKENS, [[], *([border] for border in borders)])
    given = drawn(len(documents), TOKENS)
    got = results(*given, documents, device)
    assert [relative(a.double(), b) < CLOSE for a, b in zip(got, wanted(*given, documents), strict=True)] == [True] * 4
    out, dx = got[:2]
    for row, border in enumerate(borders, 1):
        assert torch.equal(out[row, :border], out[0, :border])
        assert torch.equal(out[row, border + 3 :], out[0, border + 3 :])
        assert torch.equal(dx[row, : max(border - 3, 0)], dx[0, : max(border - 3, 0)])
        assert torch.equal(dx[row, border + 3 :], dx[0, border + 3 :])


def test_what_is_broken_in_a_document_stays_there(device: torch.device) -> None:
    starts = [8, 11, 21, 30]
    documents = rows_of_documents(len(starts), TOKENS, [[start, start + 2] for start in starts])
    given = drawn(len(starts), TOKENS)
    whole = results(*given, documents, device)
    infinite = torch.inf if device.type == "cuda" else torch.nan  # numpy warns of infinity in the interpreter
    values = torch.tensor([torch.nan, infinite, -infinite, torch.nan])[:, None, None]
    broken = torch.where((documents == 1)[..., None], values, given[0])
    got = results(broken, *given[1:], documents, device)
    others = documents != 1
    assert torch.equal(got[0][others], whole[0][others]) and torch.equal(got[1][others], whole[1][others])
    assert whole[0].isfinite().all() and not got[0][~others].isfinite().all()


def test_bfloat16_is_read_to_the_bit_and_rounded_once(device: torch.device) -> None:
    x, weight, bias, grad = (t.bfloat16() for t in drawn(2, TOKENS))
    documents = rows_of_documents(2, TOKENS, [[], [19]])
    short = results(x, weight, bias, grad, documents, device)
    long = results(x.float(), weight.float(), bias.float(), grad.float(), documents, device)
    assert [torch.equal(a, b) for a, b in zip(short[2:], long[2:], strict=True)] == [True, True]  # both in float32
    for a, b in zip(short[:2], long[:2], strict=True):
        torch.testing.assert_close(a.float(), b, rtol=2**-7, atol=0)  # the interpreter cuts off, a GPU rounds


def test_silu_is_right_at_its_extremes(device: torch.device) -> None:
    """By the bias alone. Below -87.3 the sigmoid would be no normal number, and is zero on a GPU."""
    at = [-80.0, -30.0, -1e-30, 0.0, 1e-30, 30.0, 80.0, torch.nan]
    if device.type == "cuda":  # numpy warns in the interpreter
        at += [-1e30, -200.0, -100.0, -88.0, 100.0, 200.0, 1e30, torch.inf]
    bias = torch.tensor(at)
    x, grad = torch.zeros(1, 2, len(at)), torch.ones(1, 2, len(at))
    out, _, _, slope = results(x, torch.zeros(len(at), 4), bias, grad, rows_of_documents(1, 2, [[]]), device)
    exact = bias.double().requires_grad_()
    (right,) = torch.autograd.grad(silu(exact).sum(), exact)
    torch.testing.assert_close(out[0, 0].double(), silu(exact).detach(), rtol=1e-5, atol=2e-36, equal_nan=True)
    normal = bias.abs() < 1e3  # the derivative of what is infinite is no number, there as here
    torch.testing.assert_close(slope[normal].double(), 2 * right[normal], rtol=1e-5, atol=4e-36)
    assert slope[bias.isnan()].isnan().all()
