"""Attention of rows too long for a mask of all pairs of tokens: some queries at a time, with the same result."""

import pytest
import torch
from torch import Tensor

from tests.bamba_data.memory import grown
from tests.trainer.kernels.cases import relative, rows_of_documents
from tests.trainer.small import model, packed
from trainer.model import document_mask
from trainer.model.document_mask import QueryBlocks, document_masks

#: A row has 1,200 tokens; the second and third begin at a key that attention may begin at, the last right behind one.
LENGTHS = [512, 100, 412, 1, 175]


def in_blocks(monkeypatch: pytest.MonkeyPatch, pairs: int = 64 * 1200) -> None:
    monkeypatch.setattr(document_mask, "MASK_PAIRS", pairs)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_masks_of_some_queries_are_those_rows_of_the_mask_of_all(
    parts: int, skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = rows_of_documents(2, 1800, [[700, 1100, 1600], [1024, 1025]])
    whole = document_mask.document_mask(keys)
    in_blocks(monkeypatch, 2 * 1800 * 77)
    tokens = 1800 // parts
    for part in range(parts):
        place = part * tokens
        made = document_masks(keys[:, place : place + tokens], keys, place, skip=skip)
        assert isinstance(made, QueryBlocks)
        assert any(made.first_keys) == (skip and place + tokens > 1100)  # where both rows have ended one
        found = torch.zeros_like(whole[:, :, place : place + tokens])
        for own, seen, mask in made.masks():
            assert mask.numel() <= document_mask.MASK_PAIRS
            found[:, :, own, seen] = mask
        assert torch.equal(found, whole[:, :, place : place + tokens])


def losses_and_gradients(*, compiled: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    ours = model()
    ours.compiled = compiled
    total, losses = ours.losses(*packed(LENGTHS))
    total.backward()
    return losses, {name: one.grad for name, one in ours.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("compiled", [False, True])
def test_losses_and_gradients_are_those_of_all_pairs_at_once(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, gradients = losses_and_gradients()
    in_blocks(monkeypatch)
    got, theirs = losses_and_gradients(compiled=compiled)
    assert relative(got, losses) < 1e-6
    assert {name: error for name, grad in gradients.items() if (error := relative(theirs[name], grad)) > 3e-5} == {}


@torch.no_grad()
def test_a_document_changed_leaves_every_bit_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch)
    ids, documents, positions, labels = packed(LENGTHS)
    ours = model()
    _, before = ours.losses(ids, documents, positions, labels)
    for changed in (0, 1, 4):
        own = documents == changed
        other = torch.where(own, (ids + 1) % 331, ids)
        targets = torch.where((labels == -100) | ~own, labels, torch.roll(other, -1, 1))
        _, after = ours.losses(other, documents, positions, targets)
        assert torch.equal(before[~own], after[~own]) and not torch.equal(before[own], after[own])


@pytest.mark.costly
def test_a_long_row_takes_a_part_of_the_memory_that_all_pairs_of_its_tokens_would() -> None:
    script = """
import torch
from tests.trainer.small import CONFIG, model, packed
torch.set_num_threads(1)
ours = model(config=CONFIG.model_copy(update={"attention_heads": 1, "kv_heads": 1, "layers": 2}))
row = packed([8000, 16576])
with torch.no_grad():
    ours.losses(*packed([64]))
    before = peak()
    _, losses = ours.losses(*row)
done(int((losses > 0).sum()), before)
"""
    targets, grew = grown(script)
    assert targets == 24576 - 2
    assert grew < 300 << 20 < 24576**2 / 1.9  # a byte a pair, before attention makes floats of them
