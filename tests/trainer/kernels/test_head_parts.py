"""A head wider than the kernels' tiles is several narrow ones: the same outputs, states and gradients.

Here the parts are scanned by the reference, in float64, so that nothing but the parting is compared; `test_triton` and
`test_carried` have the kernels on such heads.
"""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from tests.trainer.kernels.cases import relative, rows_of_documents
from trainer.kernels import head_parts, reference
from trainer.kernels.shapes import ScanGrads, ScanInputs

ROWS, TOKENS, HEADS, WIDTH, GROUPS, STATE = 2, 150, 2, 48, 2, 16


@pytest.fixture
def by_reference(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths that the inner scans were given."""
    widths: list[int] = []

    def seen(name: str) -> object:
        inner = getattr(reference, name)

        def scanned(inputs: ScanInputs, *more: object) -> object:
            widths.append(inputs.x.shape[-1])
            return inner(inputs, *more)

        return scanned

    monkeypatch.setattr(head_parts.ssd_forward, "scan_forward", seen("scan_forward"))
    monkeypatch.setattr(head_parts.ssd_backward, "scan_backward", seen("scan_backward"))
    monkeypatch.setattr(head_parts.ssd_states, "passing", seen("passing"))
    return widths


def drawn() -> tuple[ScanInputs, Tensor, Tensor]:
    """Inputs with a state that enters, x a part of wider rows as in a block; gradients of y and of the last state."""
    make = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, dtype=torch.float64)

    x = normal(ROWS, TOKENS, HEADS * WIDTH + 8)[..., : HEADS * WIDTH].unflatten(-1, (HEADS, WIDTH))
    documents, own = rows_of_documents(ROWS, TOKENS, [[], [30, 129]]), torch.zeros(ROWS, dtype=torch.int32)
    projections = (normal(ROWS, TOKENS, GROUPS, STATE) for _ in range(2))
    small = (normal(HEADS) - 3, normal(HEADS), normal(HEADS) - 4)
    state = normal(ROWS, HEADS, WIDTH, STATE)
    inputs = ScanInputs(x, normal(ROWS, TOKENS, HEADS), *projections, *small, documents, state, own, 0.005, 0.1)
    return inputs, normal(ROWS, TOKENS, HEADS, WIDTH), normal(ROWS, HEADS, WIDTH, STATE)


@pytest.mark.parametrize("keep", [True, False])
def test_parts_give_what_the_head_gives_with_every_gradient(by_reference: list[int], keep: bool) -> None:
    inputs, grad, grad_last = drawn()
    found = []
    for run in (head_parts, reference):
        y, states, last = run.scan_forward(inputs, keep, True)
        assert (states.numel() > 0) == keep and last.shape == grad_last.shape
        packed = torch.zeros(ROWS, TOKENS, HEADS * WIDTH + 8, dtype=torch.float64)
        dx = packed[..., : HEADS * WIDTH].unflatten(-1, (HEADS, WIDTH))
        large = ScanGrads(dx, *(torch.empty_like(one) for one in inputs[1:4]))
        into_state = torch.empty_like(grad_last)
        small = run.scan_backward(inputs, states, grad, large, lambda: grad_last, into_state)
        found.append([y, last, *large, into_state, *small[0]])
        assert not packed[..., HEADS * WIDTH :].any()
    assert by_reference == [16, 16]
    errors = [relative(got, wanted) for got, wanted in zip(*found, strict=True)]
    assert max(errors) < 1e-6, errors  # the gradient of dt is summed in float32
    assert max(error for at, error in enumerate(errors) if at != 3) < 1e-12, errors


def test_parts_know_what_tokens_make_of_a_passing_state(by_reference: list[int]) -> None:
    inputs, grad, _ = drawn()
    for of in (None, grad):
        for got, wanted in zip(head_parts.passing(inputs, of), reference.passing(inputs, of), strict=True):
            assert got.shape == wanted.shape and relative(got, wanted) < 1e-12
    assert by_reference == [16, 16]


def test_a_head_that_is_one_tile_is_scanned_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made or launched for it beside what its kernels were given."""
    inputs, grad, grad_last = drawn()
    narrow = inputs._replace(x=inputs.x[..., :32])
    large = ScanGrads(*inputs[:4])
    for module, name, more in (
        (head_parts.ssd_forward, "scan_forward", (True, True)),
        (head_parts.ssd_backward, "scan_backward", (grad, grad, large, lambda: grad_last, grad_last)),
        (head_parts.ssd_states, "passing", (grad,)),
    ):
        given: list[tuple[object, ...]] = []
        monkeypatch.setattr(module, name, lambda *all_, given=given: given.append(all_))
        getattr(head_parts, name)(narrow, *more)
        (handed_on,) = given
        assert [id(one) for one in handed_on] == [id(one) for one in (narrow, *more)]
