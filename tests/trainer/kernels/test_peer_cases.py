"""What mamba_ssm's own tests ask of its scan (tests/ops/triton/test_ssd.py there), asked of ours in float64: rows of
many lengths with the state of each at its end, groups from one to a head each, states that enter and leave."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bamba_data.errors import UserError
from tests.trainer.kernels.cases import draw, relative, rows_of_documents
from trainer.kernels import ops
from trainer.kernels.supported import unsupported

HEADS = 4
Inputs = tuple[Tensor, ...]


def drawn(tokens: int, groups: int, head_dim: int, state: int, seed: int = 0) -> Inputs:
    """x, dt, B, C of one row, and A_log, D, dt_bias."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float64)

    large = (normal(1, tokens, HEADS, head_dim), normal(1, tokens, HEADS))
    shared = (normal(1, tokens, groups, state), normal(1, tokens, groups, state))
    return (*large, *shared, normal(HEADS) - 2, normal(HEADS), normal(HEADS) - 3)


def stepped(given: Inputs, state: Tensor, limits: tuple[float, float] = (0.0, math.inf)) -> tuple[Tensor, Tensor]:
    """The recurrence from a state on: outputs, and the state at the end."""
    x, dt, B, C, A_log, D, bias = given
    B, C = (part.repeat_interleave(HEADS // part.shape[2], 2) for part in (B, C))
    wait, out = softplus(dt + bias).clamp(*limits), []
    for t in range(x.shape[1]):
        kept = (-A_log.exp() * wait[:, t]).exp()[..., None, None]
        state = kept * state + torch.einsum("bh,bhp,bhn->bhpn", wait[:, t], x[:, t], B[:, t])
        out.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]) + D[:, None] * x[:, t])
    return torch.stack(out, 1), state


def part(given: Inputs, begin: int, end: int) -> Inputs:
    return (*(one[:, begin:end] for one in given[:4]), *given[4:])


@pytest.mark.parametrize("groups", [1, 2, HEADS])
@pytest.mark.parametrize("lengths", [[300], [1, 1, 1, 297], [64, 64, 128, 44], [63, 65, 1, 127, 44], [17, 200, 83]])
def test_each_row_of_a_packed_one_ends_in_the_state_that_it_has_alone(groups: int, lengths: list[int]) -> None:
    given = drawn(sum(lengths), groups, 16, 32)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    documents = rows_of_documents(1, ends[-1], [ends[:-1]])
    whole, _ = ops.scan(*given, documents)
    nothing = torch.zeros(1, HEADS, 16, 32, dtype=torch.float64)
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        wanted, state = stepped(part(given, begin, end), nothing)
        _, last = ops.scan(*part(given, 0, end), documents[:, :end], hand_on=True)
        assert relative(whole[:, begin:end], wanted) < 1e-12 and relative(last, state) < 1e-12


@pytest.mark.parametrize("groups", [1, 2, HEADS])
@pytest.mark.parametrize(("head_dim", "state"), [(32, 16), (64, 128), (128, 64), (64, 256)])
def test_a_state_enters_and_leaves_with_gradients_through_both(groups: int, head_dim: int, state: int) -> None:
    given = drawn(70, groups, head_dim, state)
    entering = torch.randn(1, HEADS, head_dim, state, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [one.clone().requires_grad_() for one in (*given, entering)]
    own = torch.zeros(1, dtype=torch.int32)
    documents, limits = torch.zeros(1, 70, dtype=torch.int32), (0.01, 0.1)
    found = []
    for y, last in (
        ops.scan(*leaves[:7], documents, leaves[7], own, True, *limits),
        stepped(tuple(leaves[:7]), leaves[7], limits),
    ):
        loss = (y * y.detach().sin()).sum() + (last * last.detach().cos()).sum()
        found.append([y, last, *torch.autograd.grad(loss, leaves)])
    errors = [relative(got, wanted) for got, wanted in zip(*found, strict=True)]
    assert max(errors) < 1e-10, errors


def test_sizes_from_16_to_256_are_computed_or_refused_by_name() -> None:
    refused = []
    for head_dim in (16, 24, 32, 64, 80, 96, 128, 256):
        for state in (8, 16, 32, 48, 64, 128, 256, 512):
            taken = unsupported(head_dim, state, HEADS) is None
            case = draw(rows_of_documents(1, 3, [[]]), heads=HEADS, head_dim=head_dim, state=state)
            if taken:
                assert torch.isfinite(case.mixed()).all()
                continue
            refused.append((head_dim, state))
            with pytest.raises(UserError, match=f"heads of {head_dim} channels|a state of {state}"):
                case.mixed()
    wrong = {(head_dim, state) for head_dim in (16, 32, 64, 80, 96, 128, 256) for state in (8, 48, 512)}
    assert set(refused) == wrong | {(24, state) for state in (8, 16, 32, 48, 64, 128, 256, 512)}
