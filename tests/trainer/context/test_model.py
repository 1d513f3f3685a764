"""A hybrid on ranks that share rows learns what one rank learns of the whole rows."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from tests.trainer.context import jobs
from tests.trainer.context.ranks import computed
from tests.trainer.kernels.cases import relative, rows_of_documents
from tests.trainer.small import model, packed
from trainer.model.document_mask import document_block_mask, document_mask

#: Two rows of 60 tokens, cut after 30, or after 20 and 40, or 15, 30, 45. Rounding in float32.
LENGTHS = ([14, 1, 1, 28, 1, 15], [30, 10, 20])
ROUNDING = 3e-5


def rows(lengths: tuple[list[int], ...] = LENGTHS) -> list[Tensor]:
    """ids, documents, positions, labels."""
    made = [packed(one, seed=seed) for seed, one in enumerate(lengths)]
    return [torch.cat(columns) for columns in zip(*made, strict=True)]


def alone(given: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses a token, and gradients."""
    whole = model()
    total, losses = whole.losses(*given)
    total.backward()
    return losses, {name: one.grad for name, one in whole.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_losses_and_gradients_are_those_of_the_whole_rows(ranks: int) -> None:
    losses, gradients = alone(rows())
    found = computed(jobs.learned, ranks, rows(), False, ["none"])
    assert relative(torch.cat([one["none/losses"] for one in found], 1), losses) < ROUNDING
    errors = {name: relative(found[0][f"none.{name}"], grad) for name, grad in gradients.items()}
    assert {name: error for name, error in errors.items() if error > ROUNDING} == {}


def test_two_data_ranks_of_two_parts_each_learn_as_one_rank_does() -> None:
    """Both data ranks have the same rows here: the gradient is twice that of one."""
    losses, gradients = alone(rows())
    found = computed(jobs.learned, 4, rows(), False, ["none"], context_ranks=2)
    for first in (0, 2):
        assert relative(torch.cat([one["none/losses"] for one in found[first : first + 2]], 1), losses) < ROUNDING
    errors = {name: relative(found[3][f"none.{name}"], 2 * grad) for name, grad in gradients.items()}
    assert {name: error for name, error in errors.items() if error > ROUNDING} == {}


@pytest.mark.costly
def test_compiled_and_recomputed_blocks_learn_the_same_in_two_graphs_without_a_break() -> None:
    losses, gradients = alone(rows())
    found = computed(jobs.learned, 2, rows(), True, ["none", "selective", "full"])
    for way in ("none", "selective", "full"):
        assert relative(torch.cat([one[f"{way}/losses"] for one in found], 1), losses) < ROUNDING, way
        errors = {name: relative(found[0][f"{way}.{name}"], grad) for name, grad in gradients.items()}
        assert {name: error for name, error in errors.items() if error > ROUNDING} == {}, way
        assert [(int(one[f"{way}/graphs"]), int(one[f"{way}/breaks"])) for one in found] == [(2, 0)] * 2, way


def test_a_document_changed_leaves_every_bit_of_the_others_losses_on_all_ranks() -> None:
    ids, documents, positions, labels = rows()
    changes = (0, 1, 3, 5)
    given = [[ids, documents, positions, labels]]
    for changed in changes:
        own = torch.cat([documents[:1] == changed, torch.zeros(1, 60, dtype=torch.bool)])
        other = torch.where(own, (ids + 1) % 331, ids)
        targets = torch.where(labels == -100, labels, torch.roll(other, -1, 1))
        given.append([other, documents, positions, targets])
    found = computed(jobs.losses, 4, given)
    plain, *others = (torch.cat([one[str(number)] for one in found], 1) for number in range(len(given)))
    for changed, losses in zip(changes, others, strict=True):
        own = documents[0] == changed
        assert torch.equal(plain[0][~own], losses[0][~own]) and torch.equal(plain[1], losses[1])
        assert torch.equal(plain[0][own], losses[0][own]) == (int(own.sum()) == 1)  # one token has no target


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_part_s_queries_see_what_they_see_in_the_whole_row(parts: int) -> None:
    """By a mask, and by blocks: those that are left out hold nothing to see, those taken whole nothing hidden."""
    documents = rows_of_documents(2, 768, [[5, 256, 300, 384], [383, 512, 513]])
    whole = document_mask(documents)
    tokens = 768 // parts
    for number in range(parts):
        own = documents[:, number * tokens : (number + 1) * tokens]
        wanted = whole[:, :, number * tokens : (number + 1) * tokens]
        assert torch.equal(document_mask(own, documents, number * tokens), wanted)
        mask = document_block_mask(own, documents, number * tokens)
        blocks = wanted.unflatten(2, (-1, 128)).unflatten(4, (-1, 128))
        assert torch.equal(mask.to_dense().bool(), blocks.any(5).any(3))
        full = torch.zeros_like(blocks[:, :, :, 0, :, 0])
        assert mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None
        for place in mask.full_kv_num_blocks.nonzero().tolist():
            row, _, block = place
            count = int(mask.full_kv_num_blocks[row, 0, block])
            full[row, 0, block, mask.full_kv_indices[row, 0, block, :count].long()] = True
        assert torch.equal(full, blocks.all(5).all(3))


def test_the_blocks_are_those_that_torch_finds_in_all_pairs_of_tokens() -> None:
    for tokens, starts in ((768, [[5, 256, 300, 384], [383, 512, 513]]), (300, [[130, 299], []]), (640, [[], [128]])):
        documents = rows_of_documents(2, tokens, starts)

        def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor, documents: Tensor = documents) -> Tensor:
            return (query >= key) & (documents[row, query] == documents[row, key])

        theirs, ours = create_block_mask(visible, 2, None, tokens, tokens, "cpu"), document_block_mask(documents)
        assert (ours.shape, ours.seq_lengths, ours.BLOCK_SIZE) == (theirs.shape, theirs.seq_lengths, theirs.BLOCK_SIZE)
        for kind in ("kv", "full_kv", "q", "full_q"):
            counts, wanted = (getattr(mask, f"{kind}_num_blocks") for mask in (ours, theirs))
            assert torch.equal(counts, wanted) and counts.dtype == wanted.dtype, kind
            found, expected = (getattr(mask, f"{kind}_indices") for mask in (ours, theirs))
            listed = torch.arange(found.shape[-1]) < counts[..., None]
            assert torch.equal(found[listed], expected[listed]) and found.dtype == expected.dtype, kind


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns itself
@pytest.mark.parametrize(("tokens", "first"), [(768, 256), (300, 0)])
def test_attention_by_those_blocks_is_that_of_the_mask(tokens: int, first: int) -> None:
    """A part, and a row that is no whole number of blocks."""
    documents = rows_of_documents(1, tokens, [[130, 299]])
    q, k, v = torch.randn(3, 1, 2, tokens, 16)
    own, q = documents[:, first : first + 300], q[:, :, first : first + 300]
    with torch.no_grad():
        mask = document_block_mask(own, documents, first)
        got = torch.compile(flex_attention, fullgraph=True)(q, k, v, block_mask=mask)
        wanted = scaled_dot_product_attention(q, k, v, attn_mask=document_mask(own, documents, first))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
