"""The Triton kernels compute what the reference does, keep documents apart to the bit, and repeat themselves.

On a CPU they run in Triton's interpreter, in float32, on small shapes; on a GPU compiled, in bfloat16 too.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.trainer.kernels.cases import EPS, Case, draw, rows_of_documents
from tests.trainer.kernels.test_reference import gradients, relative
from trainer.kernels import ops

#: Rounding of the products: float32 on a CPU; on a GPU three passes of tf32.
EXACT = 2e-4 if torch.cuda.is_available() else 2e-5
#: A GPU gets Bamba's own tiles, the interpreter the smallest that a kernel takes.
TILES = {"head_dim": 64, "state": 128} if torch.cuda.is_available() else {"head_dim": 16, "state": 16}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on(case: Case, device: torch.device) -> Case:
    return Case(*(t.to(device) for t in case))


def results(case: Case, keep: bool = True) -> dict[str, Tensor]:
    leaves = case.leaves()
    out = ops.mix(*leaves, EPS, keep)
    return {"out": out.detach(), **gradients(leaves, out)}


def errors(case: Case, keep: bool = True) -> dict[str, float]:
    """Relative errors of the output and every gradient against the reference in float64."""
    wanted = results(Case(*(t.double() for t in case[:-1]), case.documents))
    got = results(case, keep)
    return {name: relative(got[name].double(), wanted[name]) for name in wanted}


@pytest.mark.parametrize("tokens", [1, 130, 200])
def test_output_and_every_gradient_are_those_of_the_reference(triton_kernels: torch.device, tokens: int) -> None:
    starts = [[s for s in row if s < tokens] for row in ([1, 63, 64, 65, 127, 128, 129], [5, 100])]
    case = on(draw(rows_of_documents(2, tokens, starts), **TILES).to(torch.float32), triton_kernels)
    assert {name: error for name, error in errors(case, keep=tokens != 130).items() if error > EXACT} == {}


@pytest.mark.long
def test_a_document_may_begin_at_any_token(triton_kernels: torch.device) -> None:
    tokens = 131  # a chunk of the backward, two of the forward, and some
    documents = rows_of_documents(tokens - 1, tokens, [[start] for start in range(1, tokens)])
    case = on(draw(documents, heads=1, **TILES).to(torch.float32), triton_kernels)
    found = errors(case)
    # Of one head these are one number each, the sum of many of both signs: what is left of it is no measure.
    for single in ("A_log", "D", "dt_bias"):
        assert found.pop(single) < 5e-3
    assert {name: error for name, error in found.items() if error > EXACT} == {}


@pytest.mark.parametrize(("rates", "steps"), [((1e-3, 1e-2), (1e-4, 1e-3)), ((50.0, 128.0), (1.0, 4.0))])
def test_decays_at_their_extremes_are_right(
    triton_kernels: torch.device, rates: tuple[float, float], steps: tuple[float, float]
) -> None:
    case = draw(rows_of_documents(1, 140, [[40]]), rates=rates, steps=steps, **TILES).to(torch.float32)
    found = errors(on(case, triton_kernels))
    # the decay's own gradient is all but gone where everything decays at once: nothing is left to compare
    assert {name: error for name, error in found.items() if error > 5e-4 and name != "A_log"} == {}


def test_steps_so_small_that_softplus_vanishes_have_gradients(triton_kernels: torch.device) -> None:
    case = draw(rows_of_documents(1, 70, [[]]), **TILES).to(torch.float32)
    case = case._replace(dt_bias=torch.tensor([-30.0, -60.0]))
    found = errors(on(case, triton_kernels))
    assert {name: found[name] for name in ("out", "zxbcdt", "dt_bias") if found[name] > 1e-4} == {}


@pytest.mark.parametrize("start", [64, 127])
def test_what_a_document_holds_changes_no_bit_of_another(triton_kernels: torch.device, start: int) -> None:
    documents = rows_of_documents(1, 132, [[start]])
    case = on(draw(documents, heads=1, **TILES).to(torch.float32), triton_kernels)
    new = draw(documents, heads=1, seed=1, **TILES).zxbcdt.float().to(triton_kernels)
    first = (documents[..., None] == 0).to(triton_kernels)
    base = results(case)
    earlier, later = (results(case._replace(zxbcdt=torch.where(m, new, case.zxbcdt))) for m in (first, ~first))
    for name in ("out", "zxbcdt"):
        assert torch.equal(base[name][:, start:], earlier[name][:, start:]), name
        assert torch.equal(base[name][:, :start], later[name][:, :start]), name
        assert not torch.equal(base[name], earlier[name])


def test_the_same_call_gives_the_same_bits(triton_kernels: torch.device) -> None:
    case = on(draw(rows_of_documents(2, 130, [[7], [64]]), **TILES).to(torch.float32), triton_kernels)
    one, two = results(case), results(case)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_gpu_without_a_copy_engine_computes_the_same(
    triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.kernels import tiles

    case = on(draw(rows_of_documents(2, 130, [[40], [129]]), heads=1, **TILES).to(torch.float32), triton_kernels)
    wanted = results(case)
    monkeypatch.setattr(tiles, "has_copy_engine", lambda _: False)
    got = results(case)
    off = {name: relative(got[name].double(), wanted[name].double()) for name in wanted}
    assert max(off.values()) <= (EXACT if triton_kernels.type == "cuda" else 0.0), off


def test_the_scan_alone_has_the_gradients_of_the_reference(triton_kernels: torch.device) -> None:
    make = torch.Generator().manual_seed(0)
    width, state = TILES["head_dim"], TILES["state"]
    shapes = [(2, 100, 3, width), (2, 100, 3), (2, 100, state), (2, 100, state), (3,), (3,), (3,)]
    tensors = [torch.randn(shape, generator=make).to(triton_kernels) for shape in shapes]
    documents = rows_of_documents(2, 100, [[30], [64, 70]]).to(triton_kernels)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        out = torch.ops.bamba.scan(*leaves, documents)
        weights = torch.linspace(-1, 1, out.numel(), dtype=dtype, device=out.device).sin().view_as(out)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)])
    got, wanted = found
    assert [relative(a.double(), b) < EXACT for a, b in zip(got, wanted, strict=True)] == [True] * 8


@needs_gpu
def test_bamba_s_own_shape_in_bfloat16_stays_within_the_rounding_of_its_inputs() -> None:
    documents = rows_of_documents(2, 1000, [[1, 127, 128, 129, 500], []])
    case = draw(documents, heads=128, head_dim=64, state=128).to(torch.bfloat16)
    found = errors(on(case, torch.device("cuda")))
    assert {name: error for name, error in found.items() if error > 8e-3} == {}


@needs_gpu
def test_rows_past_two_to_the_thirty_first_elements_are_those_of_a_short_call() -> None:
    tokens, pieces = 131_072 + 200, 3
    documents = rows_of_documents(1, 200, [[]])
    case = on(draw(documents, heads=128, head_dim=64, state=128).to(torch.bfloat16), torch.device("cuda"))
    short = ops.mix(*case, EPS)
    borders = [0, 200, tokens - 200, tokens]
    large = torch.zeros(1, tokens, case.zxbcdt.shape[-1], dtype=torch.bfloat16, device="cuda")
    owners = torch.zeros(1, tokens, dtype=torch.int32, device="cuda")
    for number, (begin, end) in enumerate(pairwise(borders)):
        owners[:, begin:end] = number
    assert len(borders) == pieces + 1 and large.numel() > 2**31
    large[:, :200], large[:, -200:] = case.zxbcdt, case.zxbcdt
    with torch.no_grad():
        out = ops.mix(large, *case[1:-1], owners, EPS, False)
    assert torch.equal(out[:, :200], short)
    assert relative(out[:, -200:].double(), short.double()) < 5e-3
