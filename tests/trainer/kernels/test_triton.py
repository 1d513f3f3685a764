"""The Triton kernels compute what the reference does, keep documents apart to the bit, and repeat themselves.

On a CPU they run in Triton's interpreter, in float32, on small shapes; on a GPU compiled, in bfloat16 too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch

from tests.trainer.kernels.cases import EPS, TILES, Case, definition, draw, on, relative, results, rows_of_documents
from trainer.kernels import ops
from trainer.kernels.supported import PART_WIDTHS, STATES, unsupported

#: Rounding of the products: float32 on a CPU; on a GPU three passes of tf32.
EXACT = 2e-4 if torch.cuda.is_available() else 2e-5
#: Every size there is a kernel for, and heads of several parts; in the interpreter, where each takes seconds, those at
#: the edges.
SIZES = [(width, state) for width in (*PART_WIDTHS, 96, 256) for state in STATES]
if not torch.cuda.is_available():
    SIZES = [(16, 256), (32, 16), (128, 32), (48, 16)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu() -> bool:
    return torch.cuda.is_available()


@contextmanager
def scratch(device: torch.device) -> Iterator[None]:
    """A GPU that has a copy engine makes a kernel's own descriptors for it all the same, in memory that Triton asks
    for of the thread that launches: so the backward runs in this one."""
    if device.type != "cuda":
        yield
        return
    import triton

    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
    with torch.autograd.set_multithreading_enabled(False):
        yield


def errors(case: Case, keep: bool = True) -> dict[str, float]:
    """Relative errors of the output and every gradient against the reference in float64."""
    wanted = results(Case(*(t.double() for t in case.tensors), *case[7:]))
    got = results(case, keep)
    return {name: relative(got[name].double(), wanted[name]) for name in wanted}


@pytest.mark.parametrize("tokens", [1, 130, pytest.param(200, marks=pytest.mark.costly)])
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


@pytest.mark.parametrize(
    ("rates", "steps"),
    [
        pytest.param((1e-3, 1e-2), (1e-4, 1e-3), marks=pytest.mark.costly),
        ((50.0, 128.0), (1.0, 4.0)),
    ],
)
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


@pytest.mark.costly
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


@pytest.mark.costly
def test_the_same_call_gives_the_same_bits(triton_kernels: torch.device) -> None:
    case = on(draw(rows_of_documents(2, 130, [[7], [64]]), **TILES).to(torch.float32), triton_kernels)
    one, two = results(case), results(case)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.costly
def test_a_gpu_without_a_copy_engine_computes_the_same(
    triton_kernels: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.kernels import tiles

    case = on(draw(rows_of_documents(2, 130, [[40], [129]]), heads=1, **TILES).to(torch.float32), triton_kernels)
    wanted = results(case)
    monkeypatch.setattr(tiles, "has_copy_engine", lambda _: False)
    with scratch(triton_kernels):
        got = results(case)
    off = {name: relative(got[name].double(), wanted[name].double()) for name in wanted}
    assert max(off.values()) <= (EXACT if triton_kernels.type == "cuda" else 0.0), off


PLACES = {
    "a step": ("zxbcdt", lambda case: (0, 20, case.zxbcdt.shape[-1] - 1)),
    "a rate": ("A_log", lambda case: 1),
    "a step's bias": ("dt_bias", lambda case: 1),
    "a skip": ("D", lambda case: 1),
    "an input": ("zxbcdt", lambda case: (0, 20, len(case.norm_weight))),
    "a gate": ("zxbcdt", lambda case: (0, 20, 0)),
    "a tap": ("conv_weight", lambda case: (0, 2)),
}


#: The interpreter takes half a minute for each, and numpy warns of infinity there.
BROKEN = [(what, value) for what in PLACES for value in (torch.nan, torch.inf)] if torch.cuda.is_available() else []


@pytest.mark.parametrize(("what", "value"), BROKEN or [("a step", torch.nan), ("a rate", torch.nan)])
def test_what_the_definition_makes_no_number_is_none_here_so_that_a_guard_can_see_it(
    triton_kernels: torch.device, what: str, value: float
) -> None:
    """At every token after the broken one in its document, in its chunk and in the next."""
    name, place = PLACES[what]
    tokens = 140 if on_gpu() else 70
    case = draw(rows_of_documents(1, tokens, [[10, tokens - 2]]), **TILES).to(torch.float32)
    broken = getattr(case, name).clone()
    broken[place(case)] = value
    case = case._replace(**{name: broken})
    with torch.no_grad():
        wanted = definition(case)
    got = results(on(case, triton_kernels))
    # An infinite rate forgets all at once, by the definition; here differences of infinite sums are no number.
    assert (wanted.isnan().any() or (what, value) == ("a rate", torch.inf)) == torch.isnan(got["out"]).any()
    missed = wanted.isnan() & ~got["out"].cpu().isnan()
    assert missed.nonzero().tolist() == []
    if wanted.isnan().any():
        assert not torch.isfinite(torch.stack([grad.double().norm() for grad in list(got.values())[1:]]).sum())


def sizes_of_dtypes() -> Iterator[tuple[torch.dtype, int, int]]:
    """On a GPU both dtypes, each with its own limit."""
    for dtype in (torch.float32, torch.bfloat16) if on_gpu() else (torch.float32,):
        for head_dim, state in SIZES:
            if not on_gpu() or unsupported(head_dim, state, 1, str(dtype).removeprefix("torch.")) is None:
                yield dtype, head_dim, state


@pytest.mark.parametrize(("dtype", "head_dim", "state"), list(sizes_of_dtypes()))
def test_every_size_that_is_taken_is_computed(
    triton_kernels: torch.device, dtype: torch.dtype, head_dim: int, state: int
) -> None:
    documents = rows_of_documents(1, 150, [[70, 129]]) if on_gpu() else rows_of_documents(1, 70, [[66]])
    case = draw(documents, heads=3 if on_gpu() else 1, head_dim=head_dim, state=state).to(dtype)
    found = errors(on(case, triton_kernels))
    for single in ("A_log", "D", "dt_bias"):  # of few heads: the sum of many numbers of both signs
        assert found.pop(single) < (5e-2 if dtype == torch.bfloat16 else 5e-3)
    bound = 1e-2 if dtype == torch.bfloat16 else EXACT
    assert {name: error for name, error in found.items() if error > bound} == {}


def test_the_scan_alone_has_the_gradients_of_the_reference(triton_kernels: torch.device) -> None:
    make = torch.Generator().manual_seed(0)
    width, state = TILES["head_dim"], TILES["state"]
    shapes = [(2, 100, 3, width), (2, 100, 3), (2, 100, 1, state), (2, 100, 1, state), (3,), (3,), (3,)]
    tensors = [torch.randn(shape, generator=make).to(triton_kernels) for shape in shapes]
    documents = rows_of_documents(2, 100, [[30], [64, 70]]).to(triton_kernels)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        out, _ = ops.scan(*leaves, documents)
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
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("batch", "tokens", "state"), [(2, 1000, 128), (1, 5, 128), (3, 64, 64), (2, 333, 64)])
def test_the_scan_for_hopper_has_the_bits_of_the_one_for_all(
    monkeypatch: pytest.MonkeyPatch, batch: int, tokens: int, state: int, keep: bool
) -> None:
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("this GPU is no Hopper: it has one scan")
    from trainer.kernels import ssd_forward  # Triton is not everywhere

    documents = rows_of_documents(batch, tokens, [[1, 63, 64, 200, 300]] * batch if tokens > 300 else [[]] * batch)
    case = on(draw(documents, heads=6, head_dim=64, state=state).to(torch.bfloat16), torch.device("cuda"))
    assert ssd_forward._of_hopper() is not None
    found = results(case, keep)
    monkeypatch.setattr(ssd_forward, "is_hopper", lambda _: False)
    wanted = results(case, keep)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@needs_gpu
def test_a_captured_block_has_the_bits_of_the_called_one() -> None:
    """What docs/kernels.md tells those who call a block from Python to do."""
    documents = rows_of_documents(2, 300, [[1, 100], []])
    case = on(draw(documents, heads=8, head_dim=64, state=128).to(torch.bfloat16), torch.device("cuda"))
    leaves = [tensor.detach().requires_grad_() for tensor in case[:7]]
    graphed = torch.cuda.make_graphed_callables(lambda *given: ops.mix(*given, case.documents, EPS), tuple(leaves))
    for scale in (1.0, -0.5):
        given = [(scale * tensor).detach().requires_grad_() for tensor in leaves]
        out, wanted = graphed(*given), ops.mix(*given, case.documents, EPS)
        weights = torch.randn_like(wanted)
        pairs = zip(
            [out, *torch.autograd.grad(out, given, weights)],
            [wanted, *torch.autograd.grad(wanted, given, weights)],
            strict=True,
        )
        assert all(torch.equal(one, other) for one, other in pairs)


@needs_gpu
def test_rows_past_two_to_the_thirty_first_elements_are_those_of_a_short_call() -> None:
    tokens, pieces = 131_072 + 200, 3
    documents = rows_of_documents(1, 200, [[]])
    case = on(draw(documents, heads=128, head_dim=64, state=128).to(torch.bfloat16), torch.device("cuda"))
    short = case.mixed()
    borders = [0, 200, tokens - 200, tokens]
    large = torch.zeros(1, tokens, case.zxbcdt.shape[-1], dtype=torch.bfloat16, device="cuda")
    owners = torch.zeros(1, tokens, dtype=torch.int32, device="cuda")
    for number, (begin, end) in enumerate(pairwise(borders)):
        owners[:, begin:end] = number
    assert len(borders) == pieces + 1 and large.numel() > 2**31
    large[:, :200], large[:, -200:] = case.zxbcdt, case.zxbcdt
    with torch.no_grad():
        out = ops.mix(large, *case[1:7], owners, EPS, False)
    assert torch.equal(out[:, :200], short)
    assert relative(out[:, -200:].double(), short.double()) < 5e-3
