"""The plain torch form of the op computes the recurrence, its gradients, and keeps documents apart to the bit."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.trainer.kernels.cases import EPS, NAMES, definition, draw, gradients, relative, rows_of_documents
from trainer.kernels import ops

#: documents at a chunk's edges, one before and after them, of one token, spanning chunks, and none but one.
STARTS = [[1, 63, 64, 65, 127, 128], [], [64], [5, 6, 7, 100, 129]]


@pytest.mark.parametrize("tokens", [1, 3, 64, 130])
def test_output_and_every_gradient_are_those_of_the_recurrence(tokens: int) -> None:
    starts = [[s for s in row if s < tokens] for row in STARTS]
    case = draw(rows_of_documents(4, tokens, starts)).leaves()
    wanted, got = definition(case), case.mixed()
    assert relative(got, wanted) < 1e-12
    wanted_grads, got_grads = gradients(case, wanted), gradients(case, got)
    assert {name: relative(got_grads[name], wanted_grads[name]) for name in NAMES} == pytest.approx(
        dict.fromkeys(NAMES, 0), abs=1e-10
    )


@pytest.mark.parametrize(("groups", "norm_groups"), [(2, 1), (4, 4), (1, 2)])
def test_heads_share_b_and_c_by_groups_and_the_norm_has_its_own(groups: int, norm_groups: int) -> None:
    documents = rows_of_documents(2, 70, [[10], [64]])
    case = draw(documents, heads=4, groups=groups, norm_groups=norm_groups).leaves()
    wanted, got = definition(case), case.mixed()
    assert relative(got, wanted) < 1e-12
    wanted_grads, got_grads = gradients(case, wanted), gradients(case, got)
    assert {name: error for name in NAMES if (error := relative(got_grads[name], wanted_grads[name])) > 1e-10} == {}


@pytest.mark.parametrize("limits", [(0.01, math.inf), (0.0, 0.05), (0.02, 0.04)])
def test_steps_are_brought_between_limits_and_those_beyond_have_no_gradient(limits: tuple[float, float]) -> None:
    documents = rows_of_documents(2, 70, [[10], [64]])
    case = draw(documents, heads=4, dt_min=limits[0], dt_max=limits[1]).leaves()
    wanted, got = definition(case), case.mixed()
    assert relative(got, wanted) < 1e-12 < relative(draw(documents, heads=4).mixed(), wanted)
    wanted_grads, got_grads = gradients(case, wanted), gradients(case, got)
    assert {name: error for name in NAMES if (error := relative(got_grads[name], wanted_grads[name])) > 1e-10} == {}
    assert (got_grads["zxbcdt"][..., -4:] == 0).any() and (got_grads["zxbcdt"][..., -4:] != 0).any()


@pytest.mark.slow
def test_a_document_may_begin_at_any_token() -> None:
    tokens = 131  # two chunks and some
    case = draw(rows_of_documents(tokens - 1, tokens, [[start] for start in range(1, tokens)])).leaves()
    wanted, got = definition(case), case.mixed()
    assert relative(got, wanted) < 1e-12
    wanted_grads, got_grads = gradients(case, wanted), gradients(case, got)
    assert {name: error for name in NAMES if (error := relative(got_grads[name], wanted_grads[name])) > 1e-10} == {}


@pytest.mark.parametrize(("rates", "steps"), [((1e-3, 1e-2), (1e-4, 1e-3)), ((50.0, 128.0), (1.0, 4.0))])
def test_decays_at_their_extremes_stay_finite_and_right(rates: tuple[float, float], steps: tuple[float, float]) -> None:
    case = draw(rows_of_documents(1, 100, [[40]]), rates=rates, steps=steps).leaves()
    wanted, got = definition(case), case.mixed()
    assert relative(got, wanted) < 1e-12
    wanted_grads, got_grads = gradients(case, wanted), gradients(case, got)
    assert all(relative(got_grads[name], wanted_grads[name]) < 1e-9 for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [1, 2, 3, 63, 64, 65, 128, 131])
def test_what_a_document_holds_changes_no_bit_of_another(start: int, dtype: torch.dtype) -> None:
    documents = rows_of_documents(1, 132, [[start]])
    case = draw(documents).to(dtype)
    other = case._replace(zxbcdt=torch.where(documents[..., None] == 0, draw(documents, seed=1).zxbcdt, case.zxbcdt))
    one, two = case.leaves(), other.to(dtype).leaves()
    out_one, out_two = one.mixed(), two.mixed()
    assert torch.equal(out_one[:, start:], out_two[:, start:])
    assert not torch.equal(out_one[:, :start], out_two[:, :start])
    grad_one, grad_two = gradients(one, out_one)["zxbcdt"], gradients(two, out_two)["zxbcdt"]
    assert torch.equal(grad_one[:, start:], grad_two[:, start:])


@pytest.mark.parametrize("start", [3, 64, 100])
def test_what_follows_a_document_changes_no_bit_of_it(start: int) -> None:
    documents = rows_of_documents(1, 132, [[start]])
    case = draw(documents).to(torch.float32)
    new = draw(documents, seed=1).zxbcdt.float()
    one, two = case.leaves(), case._replace(zxbcdt=torch.where(documents[..., None] == 1, new, case.zxbcdt)).leaves()
    out_one, out_two = one.mixed(), two.mixed()
    assert torch.equal(out_one[:, :start], out_two[:, :start])
    assert torch.equal(gradients(one, out_one)["zxbcdt"][:, :start], gradients(two, out_two)["zxbcdt"][:, :start])


def test_every_gradient_is_that_of_finite_differences_also_where_nobody_asks_for_it() -> None:
    """torch's own check in float64, with gradients of outputs left undefined."""
    case = draw(rows_of_documents(2, 5, [[2], []]), heads=1).leaves()
    assert torch.autograd.gradcheck(lambda *leaves: ops.mix(*leaves, case.documents, EPS), case.tensors, fast_mode=True)
    shapes = ((2, 5, 1, 16), (2, 5, 1), (2, 5, 1, 16), (2, 5, 1, 16), (1,), (1,), (1,))
    make = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=make, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(lambda *given: ops.scan(*given, case.documents)[0], leaves, fast_mode=True)


def test_the_op_passes_torchs_own_check_of_custom_ops() -> None:
    case = draw(rows_of_documents(2, 70, [[10], [64]])).to(torch.float32)
    for keep in (False, True):
        torch.library.opcheck(
            torch.ops.bamba.mix.default, (*case.leaves()[:8], None, None, None, *case[8:], EPS, keep, False)
        )


def test_the_work_is_counted_as_that_of_the_recurrence_and_thrice_with_its_backward() -> None:
    case = draw(rows_of_documents(2, 70, [[10], [64]])).to(torch.float32).leaves()
    once = 5 * 16 * 16 * 2 * 70 * 2
    with FlopCounterMode(display=False) as forward:
        out = case.mixed()
    with FlopCounterMode(display=False) as backward:
        case.loss(out).backward()  # type: ignore[no-untyped-call]
    assert (forward.get_total_flops(), backward.get_total_flops()) == (once, 2 * once)


def test_the_quick_way_to_an_op_gives_what_the_registered_one_gives() -> None:
    """Called from Python, an op's gradients do not come by what torch registered for it; in a graph they do."""
    case = draw(rows_of_documents(2, 70, [[10], [64]])).to(torch.float32)
    quick, registered = case.leaves(), case.leaves()
    out = quick.mixed()
    same = torch.ops.bamba.mix(*registered[:8], None, None, None, *registered[8:], EPS, True, False)[0]
    assert torch.equal(out, same)
    wanted, got = gradients(registered, same), gradients(quick, out)
    assert [name for name in NAMES if not torch.equal(got[name], wanted[name])] == []
    some = quick._replace(A_log=quick.A_log.detach(), zxbcdt=quick.zxbcdt.detach())
    (alone,) = torch.autograd.grad(some.loss(some.mixed()), [some.D])
    assert torch.equal(alone, wanted["D"])
    with torch.no_grad():
        assert not quick.mixed().requires_grad
    assert not case.mixed().requires_grad


def test_a_compiled_graph_holds_the_op_whole_and_gives_the_same_numbers() -> None:
    case = draw(rows_of_documents(2, 70, [[10], [64]])).to(torch.float32)
    plain, compiled = case.leaves(), case.leaves()

    def block(*tensors: Tensor) -> Tensor:
        return ops.mix(tensors[0] * 2, *tensors[1:8], EPS) + 1

    eager = block(*plain[:8])
    fused = torch.compile(block, fullgraph=True, backend="aot_eager")(*compiled[:8])
    assert torch.equal(eager, fused)
    wanted, got = gradients(plain, eager), gradients(compiled, fused)
    assert [name for name in NAMES if not torch.equal(got[name], wanted[name])] == []
