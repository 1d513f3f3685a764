"""A Mamba2 block over parts of rows, each on a rank of its own, gives what it gives for the whole rows."""

import pytest
import torch
from torch import Tensor

from tests import interpreter
from tests.trainer.context import jobs
from tests.trainer.context.ranks import Found, computed
from tests.trainer.kernels.cases import NAMES, Case, draw, gradients, relative, rows_of_documents

#: Of rows of 60 tokens, cut after 30, after 20 and 40, or after 15, 30 and 45: documents that span all cuts, that end
#: at one, that are one token before or behind one, and many of one token.
STARTS = [[], [20, 30, 45], [14, 15, 16, 29, 30, 31], [7, 44, 46, 59], list(range(1, 60)), [30], [31]]


def cases() -> list[Case]:
    documents = rows_of_documents(len(STARTS), 60, STARTS)
    wide = draw(documents, heads=4, groups=2)
    odd = draw(rows_of_documents(1, 12 * 31, [[5, 123, 124, 125, 186]]), heads=2)
    slow = draw(rows_of_documents(1, 240, [[100]]), heads=2, rates=(0.01, 0.02))  # a state that lasts over all parts
    return [draw(documents, heads=2), wide._replace(norm_groups=2, dt_min=0.01, dt_max=0.05), odd, slow]


def whole(found: list[Found], number: int) -> dict[str, Tensor]:
    """Out and gradients of the rows: tokens end to end, parameters summed."""
    joined = {name: torch.cat([rank[f"{number}.{name}"] for rank in found], 1) for name in ("out", NAMES[0])}
    return joined | {name: sum(rank[f"{number}.{name}"] for rank in found) for name in NAMES[1:]}  # type: ignore[misc]


def wanted(case: Case) -> dict[str, Tensor]:
    leaves = case.leaves()
    out = leaves.mixed()
    return {"out": out.detach(), **gradients(leaves, out)}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_parts_give_the_outputs_and_gradients_of_the_rows(ranks: int) -> None:
    given = cases()
    found = computed(jobs.mixes, ranks, [list(case) for case in given], ranks != 3)
    for number, case in enumerate(given):
        got = whole(found, number)
        errors = {name: relative(got[name], value) for name, value in wanted(case).items()}
        assert {name: error for name, error in errors.items() if error > 1e-11} == {}, number


def test_in_float32_and_bfloat16_parts_differ_from_rows_by_rounding() -> None:
    exact = cases()[2]
    for dtype, most in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
        found = computed(jobs.mixes, 2, [list(exact.to(dtype))], True)
        errors = {name: relative(whole(found, 0)[name], value) for name, value in wanted(exact).items()}
        assert {name: error for name, error in errors.items() if error > most} == {}, dtype


@pytest.mark.costly
@pytest.mark.skipif(not interpreter.needed(), reason="needs Triton 3.9 for its interpreter")
def test_the_triton_kernels_give_for_parts_what_the_reference_gives_for_rows() -> None:
    case = draw(rows_of_documents(2, 264, [[], [70, 131, 132]]), heads=2).to(torch.float32)
    found = computed(jobs.mixes, 2, [list(case)], True, interpreted=True)
    errors = {name: relative(whole(found, 0)[name], value) for name, value in wanted(case).items()}
    assert {name: error for name, error in errors.items() if error > 2e-5} == {}


def test_a_document_changed_leaves_the_bits_of_the_others_on_every_rank() -> None:
    case = draw(rows_of_documents(2, 60, [[14, 31, 45], [2, 30]]), heads=2).to(torch.float32)
    changed = case.documents == 1
    other = case._replace(zxbcdt=torch.where(changed[..., None], case.zxbcdt + 1, case.zxbcdt))
    found = computed(jobs.mixes, 4, [list(case), list(other)], True)
    first, second = whole(found, 0), whole(found, 1)
    for name in ("out", "zxbcdt"):
        assert torch.equal(first[name][~changed], second[name][~changed])
        assert not torch.equal(first[name][changed], second[name][changed])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tokens_are_gathered_and_their_gradients_summed(dtype: torch.dtype) -> None:
    rows, weights = torch.randn(2, 12, 3, dtype=dtype), torch.randn(3, 2, 12, 3, dtype=dtype)
    found = computed(jobs.gathers, 3, rows, weights)
    assert all(torch.equal(rank["whole"], rows) for rank in found)
    summed = torch.cat([rank["grad"] for rank in found], 1)
    assert relative(summed, weights.double().sum(0)) < (1e-2 if dtype == torch.bfloat16 else 1e-6)
