"""A row cut into pieces, each going on from the one before, gives what the whole row gives, and so do gradients."""

import math
import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bamba_data.errors import UserError
from tests.trainer.kernels.cases import EPS, NAMES, TILES, Case, draw, gradients, on, relative, rows_of_documents
from trainer.kernels import ops
from trainer.kernels.shapes import Carried

#: Documents that end before, at and after a cut, of one token on either side of it, and one that spans all pieces.
STARTS = [[5, 63, 64, 65, 100], [], [64, 128], [1, 2, 127, 129]]
EXACT = 2e-4 if torch.cuda.is_available() else 2e-5


def pieces(case: Case, cuts: list[int], keep: bool = True) -> tuple[Tensor, Carried]:
    """The outputs of the pieces between the cuts, side by side, and what the last one hands on."""
    outs, carried = [], None
    for begin, end in pairwise([0, *cuts, case.documents.shape[1]]):
        own = (case.zxbcdt[:, begin:end], *case[1:7], case.documents[:, begin:end])
        out, carried = ops.mix_carried(*own, EPS, carried, keep, *case[8:])
        outs.append(out)
    assert carried is not None
    return torch.cat(outs, 1), carried


def row(tokens: int = 140, **sizes: int) -> Case:
    starts = [[start for start in one if start < tokens] for one in STARTS]
    return draw(rows_of_documents(4, tokens, starts), **{"heads": 2, **sizes})


@pytest.mark.parametrize("cuts", [[64], [1], [2, 3, 4], [65, 66, 128], [139]])
@pytest.mark.parametrize("groups", [1, 2])
def test_pieces_give_the_outputs_and_gradients_of_the_row(cuts: list[int], groups: int) -> None:
    case = row(groups=groups).leaves()
    whole = case.mixed()
    cut, _ = pieces(case, cuts)
    assert relative(cut, whole) < 1e-12
    wanted, got = gradients(case, whole), gradients(case, cut)
    assert {name: error for name in NAMES if (error := relative(got[name], wanted[name])) > 1e-10} == {}


def test_what_is_handed_on_is_the_same_for_any_cuts_and_its_gradients_too() -> None:
    case = row().leaves()
    found = []
    for cuts in ([], [1], [64], [3, 70, 139]):
        _, last = pieces(case, cuts)
        total = (last.state * torch.linspace(-1, 1, last.state.numel()).view_as(last.state)).sum() + last.halo.sum()
        grads = torch.autograd.grad(total, [t for t in case.tensors if t is not case.norm_weight], allow_unused=True)
        found.append((last, [grad for grad in grads if grad is not None]))
    (wanted, wanted_grads), *others = found
    assert len(wanted_grads) == 6
    for last, grads in others:
        assert relative(last.state, wanted.state) < 1e-12
        assert torch.equal(last.halo, wanted.halo) and torch.equal(last.documents, wanted.documents)
        assert [relative(a, b) < 1e-10 for a, b in zip(grads, wanted_grads, strict=True)] == [True] * 6


def test_finite_differences_agree_with_the_gradients_of_what_enters() -> None:
    case = draw(rows_of_documents(2, 6, [[2], []]), heads=2, groups=2).leaves()
    make = torch.Generator().manual_seed(1)
    state = torch.randn(2, 2, 16, 16, generator=make, dtype=torch.float64).requires_grad_()
    halo = torch.randn(2, 3, 96, generator=make, dtype=torch.float64).requires_grad_()
    ids = torch.tensor([[-1, -1, 0], [0, 0, 0]], dtype=torch.int32)

    def carried(zxbcdt: Tensor, state: Tensor, halo: Tensor) -> tuple[Tensor, ...]:
        given = (zxbcdt, *case[1:8], EPS, Carried(state, halo, ids))
        out, last = ops.mix_carried(*given, groups=2)
        return out, last.state, last.halo

    assert torch.autograd.gradcheck(carried, (case.zxbcdt, state, halo), fast_mode=True)


def test_a_state_enters_only_the_document_that_goes_on() -> None:
    case = row().to(torch.float32)
    _, first = pieces(case._replace(zxbcdt=case.zxbcdt[:, :64], documents=case.documents[:, :64]), [])
    rest = (case.zxbcdt[:, 64:], *case[1:7], case.documents[:, 64:])
    plain, _ = ops.mix_carried(*rest, EPS, first)
    other, _ = ops.mix_carried(*rest, EPS, first._replace(state=first.state + 1, halo=first.halo + 1))
    goes_on = case.documents[:, 64:] == case.documents[:, 63:64]
    assert torch.equal(plain[~goes_on], other[~goes_on])
    assert [bool((plain[r][goes_on[r]] != other[r][goes_on[r]]).any()) for r in range(4)] == [False, True, False, True]


def test_what_tokens_make_of_a_passing_state_is_what_the_row_does_with_it() -> None:
    from trainer.kernels import reference
    from trainer.kernels.shapes import ScanGrads, ScanInputs

    make = torch.Generator().manual_seed(0)
    shapes = ((2, 70, 2, 16), (2, 70, 2), (2, 70, 1, 16), (2, 70, 1, 16), (2,), (2,), (2,))
    x, dt, B, C, A_log, D, bias = (torch.randn(shape, generator=make, dtype=torch.float64) for shape in shapes)
    documents, own = rows_of_documents(2, 70, [[], [30]]), torch.zeros(2, dtype=torch.int32)
    state = torch.randn(2, 2, 16, 16, generator=make, dtype=torch.float64)
    inputs = ScanInputs(x, dt, B, C, A_log - 3, D, bias - 4, documents, state, own)
    added, passed = reference.passing(inputs)
    _, _, last = reference.scan_forward(inputs, hand_on=True)
    assert relative(last, added + passed[..., None, None] * state) < 1e-12
    assert (passed[0] > 0).all() and (passed[1] == 0).all()
    grad, out = torch.randn(x.shape, generator=make, dtype=torch.float64), torch.empty_like(state)
    places = ScanGrads(*(torch.empty_like(t) for t in (x, dt, B, C)))
    reference.scan_backward(inputs, x.new_empty(0), grad, places, state, out)
    added, passed = reference.passing(inputs, grad)
    assert relative(out, added + passed[..., None, None] * state) < 1e-12


def test_torch_s_own_check_of_custom_ops_passes_with_a_state() -> None:
    case = row(tokens=20, groups=2).to(torch.float32)
    _, first = pieces(case._replace(zxbcdt=case.zxbcdt[:, :10], documents=case.documents[:, :10]), [])
    entering = [tensor.contiguous().requires_grad_() for tensor in first[:2]]
    given = (*case.leaves()[:8], *entering, first.documents.contiguous(), 2, 1, 0.01, 0.5, EPS, True, True)
    given = (given[0][:, 10:].detach().requires_grad_(), *given[1:7], given[7][:, 10:].contiguous(), *given[8:])
    torch.library.opcheck(torch.ops.bamba.mix.default, given)


def test_a_compiled_graph_hands_a_state_on_as_it_is() -> None:
    case = row(tokens=40).to(torch.float32)
    fused = torch.compile(lambda given: pieces(given, [20]), fullgraph=True, backend="aot_eager")
    (wanted, last), (got, same) = pieces(case, [20]), fused(case)
    assert torch.equal(got, wanted) and all(torch.equal(a, b) for a, b in zip(last, same, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c._replace(state=c.state[:, :1]), "state_in has the shape (4, 1, 16, 16), not (4, 2, 16, 16)"),
        (lambda c: c._replace(state=c.state.bfloat16()), "state_in is torch.bfloat16, not torch.float32"),
        (lambda c: c._replace(halo=c.halo[:, :2]), "halo_in has the shape (4, 2, 64), not (4, 3, 64)"),
        (lambda c: c._replace(documents=c.documents.long()), "documents_in is torch.int64, not torch.int32"),
        (lambda c: c._replace(documents=c.documents + 9), "with what entered: document ids must ascend"),
    ],
)
def test_what_cannot_enter_is_refused_by_name(change: object, says: str) -> None:
    case = row(tokens=20).to(torch.float32)
    _, first = pieces(case, [])
    with pytest.raises(UserError, match=re.escape(says)):
        ops.mix_carried(*case[:7], case.documents + 9, EPS, change(first))  # type: ignore[operator]


@pytest.mark.costly
@pytest.mark.parametrize("keep", [True, False])
def test_the_kernels_hand_a_state_on_as_the_reference_does(triton_kernels: torch.device, keep: bool) -> None:
    tokens, cuts = (400, [129, 130, 320]) if triton_kernels.type == "cuda" else (140, [66])
    documents = rows_of_documents(2, tokens, [[5, 66, 129, 200][: 4 if tokens > 200 else 2], []])
    case = on(draw(documents, heads=4, groups=2, norm_groups=2, **TILES).to(torch.float32), triton_kernels)
    exact = Case(*(t.double() for t in case.tensors), *case[7:]).leaves()
    leaves = case.leaves()
    found = []
    for one in (leaves, exact):
        out, last = pieces(one, cuts, keep)
        loss = one.loss(out) + one.loss(last.state)
        found.append([out, last.state, *torch.autograd.grad(loss, one.tensors)])
    errors = [relative(a.double(), b) for a, b in zip(*found, strict=True)]
    assert max(errors) < EXACT, errors


@pytest.mark.costly
def test_the_kernels_bring_steps_between_limits(triton_kernels: torch.device) -> None:
    documents = rows_of_documents(2, 140, [[5, 66, 129], []])
    case = on(draw(documents, heads=4, dt_min=0.01, dt_max=0.05, **TILES).float(), triton_kernels)
    exact = Case(*(t.double() for t in case.tensors), *case[7:])
    found = []
    for one in (case.leaves(), exact.leaves()):
        out = one.mixed()
        found.append([out, *torch.autograd.grad(one.loss(out), one.tensors)])
    errors = [relative(a.double(), b) for a, b in zip(*found, strict=True)]
    assert max(errors) < EXACT, errors
    held_back = found[0][1][..., -4:] == 0
    assert held_back.any() and torch.equal(held_back, found[1][1][..., -4:] == 0)


@pytest.mark.costly
def test_the_kernels_take_any_number_of_groups(triton_kernels: torch.device) -> None:
    for groups in (1, 3, 6) if triton_kernels.type == "cuda" else (3,):
        documents = rows_of_documents(2, 140, [[5, 66, 129], []])
        case = on(draw(documents, heads=6, groups=groups, norm_groups=groups, **TILES).float(), triton_kernels)
        exact = Case(*(t.double() for t in case.tensors), *case[7:])
        found = []
        for one in (case.leaves(), exact.leaves()):
            out = one.mixed()
            found.append([out, *torch.autograd.grad(one.loss(out), one.tensors)])
        errors = [relative(a.double(), b) for a, b in zip(*found, strict=True)]
        assert max(errors) < EXACT, (groups, errors)


def test_the_kernels_know_what_tokens_make_of_a_passing_state(triton_kernels: torch.device) -> None:
    from trainer.kernels import reference, triton_backend
    from trainer.kernels.shapes import ScanInputs

    make = torch.Generator().manual_seed(0)
    width, state = TILES["head_dim"], TILES["state"]
    shapes = ((2, 150, 2, width), (2, 150, 2), (2, 150, 1, state), (2, 150, 1, state), (2,), (2,), (2,))
    tensors = [torch.randn(shape, generator=make).to(triton_kernels) for shape in shapes]
    tensors[4], tensors[6] = tensors[4] - 3, tensors[6] - 4
    documents = rows_of_documents(2, 150, [[], [130]]).to(triton_kernels)
    inputs = ScanInputs(*tensors, documents, None, documents[:, 0].contiguous())
    for grad in (None, torch.randn(tensors[0].shape, generator=make).to(triton_kernels)):
        for got, wanted in zip(triton_backend.passing(inputs, grad), reference.passing(inputs, grad), strict=True):
            assert relative(got, wanted) < EXACT


def test_one_long_row_is_scanned_in_halves_and_is_what_it_would_be_whole(
    triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.kernels import ssd_forward

    long = 8192 if triton_kernels.type == "cuda" else 256
    monkeypatch.setattr(ssd_forward, "LONG", long)
    documents = rows_of_documents(1, long, [[7, long // 2 + 70]])
    case = on(draw(documents, heads=1, **TILES).float(), triton_kernels)
    halved = case.leaves()
    out, last = pieces(halved, [])
    got = [out, last.state, *torch.autograd.grad(halved.loss(out), halved.tensors)]
    monkeypatch.setattr(ssd_forward, "LONG", long + 1)
    whole = case.leaves()
    out, last = pieces(whole, [])
    wanted = [out, last.state, *torch.autograd.grad(whole.loss(out), whole.tensors)]
    assert max(relative(a, b) for a, b in zip(got, wanted, strict=True)) < EXACT
    assert not torch.equal(got[0], wanted[0])  # another order of the same sums


@pytest.mark.parametrize(
    ("groups", "limits", "parts"),
    [(1, (0.0, math.inf), 1), (2, (0.0, math.inf), 1), (2, (0.02, 0.05), 1), (2, (0.02, 0.05), 3)],
)
def test_one_token_a_row_is_what_a_piece_of_one_token_is(
    triton_kernels: torch.device, groups: int, limits: tuple[float, float], parts: int
) -> None:
    """Also of heads that are wider than a tile."""
    documents = torch.zeros(2, 12, dtype=torch.int32)
    sizes = {**TILES, "head_dim": parts * TILES["head_dim"]}
    drawn = draw(documents, heads=2, groups=groups, norm_groups=groups, dt_min=limits[0], dt_max=limits[1], **sizes)
    case = on(drawn.float(), triton_kernels)
    with torch.no_grad():
        parameters, begun = case[1:7], (case.zxbcdt[:, :8], *case[1:7], case.documents[:, :8])
        _, carried = ops.mix_carried(*begun, EPS, None, False, *case[8:])
        carried = Carried(*(tensor.contiguous().clone() for tensor in carried))
        outs = []
        for t in range(8, 12):
            outs.append(ops.step(case.zxbcdt[:, t : t + 1], *parameters, carried, EPS, *case[8:]))
        wanted = case.mixed(keep=False)[:, 8:]
    assert relative(torch.cat(outs, 1), wanted) < EXACT
    _, last = pieces(case, [])
    assert relative(carried.state, last.state) < EXACT and torch.equal(carried.halo, last.halo)
