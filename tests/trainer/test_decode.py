"""What is written token by token is what the whole model gives for the whole text, whatever stands beside it."""

import random

import pytest
import torch

from bamba_data.errors import UserError
from tests.trainer.greedy import prompts, recomputed, texts
from tests.trainer.small import CONFIG, model
from trainer.decode import memory, writing
from trainer.decode.sampling import Sampling, choosing, likeliest
from trainer.decode.writing import written
from trainer.model.bamba import Bamba

SHAPES: list[dict[str, object]] = [
    {},
    {"attention_layers": "all"},
    {"attention_layers": [], "mamba_groups": 2, "mamba_norm_groups": 2},
]
LENGTHS = [1, 2, 3, 5, 63, 64, 65, 130]


@pytest.mark.parametrize("change", SHAPES)
def test_tokens_are_those_of_the_whole_text_alone_and_in_a_batch_of_any_order(change: dict[str, object]) -> None:
    config = CONFIG.model_copy(update=change)
    ours, given = model(config=config), prompts(LENGTHS)
    wanted = [recomputed(ours, prompt, 6) for prompt in given]
    assert [texts(ours, [prompt], 6)[0] for prompt in given] == wanted
    assert texts(ours, given, 6) == wanted
    assert texts(ours, given[::-1], 6) == wanted[::-1]


@torch.no_grad()
def is_of_the_whole(ours: Bamba, prompt: list[int], new: list[int]) -> bool:
    """Whether each new token is the likeliest one behind all before it, by one pass over the whole text: no position
    sees what comes after it."""
    row = torch.tensor(prompt + new[:-1])[None]
    logits = ours.logits(row, torch.zeros_like(row, dtype=torch.int32), torch.arange(row.shape[1])[None])
    return logits[0, len(prompt) - 1 :].argmax(-1).tolist() == new


@pytest.mark.slow
@pytest.mark.parametrize("change", SHAPES)
def test_200_prompts_of_odd_lengths_are_written_on_as_recomputed_alone_by_eight_and_in_any_order(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PIECE_TOKENS", 57)  # most prompts are read in several pieces
    draw = random.Random(5)
    given = prompts([draw.randrange(1, 160, 2) for _ in range(200)])
    ours = model(config=CONFIG.model_copy(update={"layers": 2, **change}))
    alone = [texts(ours, [prompt], 4)[0] for prompt in given]
    assert all(is_of_the_whole(ours, prompt, new) for prompt, new in zip(given, alone, strict=True))
    for order in (list(range(200)), draw.sample(range(200), 200)):
        for start in range(0, 200, 8):
            batch = order[start : start + 8]
            assert texts(ours, [given[row] for row in batch], 4) == [alone[row] for row in batch]


def test_a_seed_is_a_text_alone_and_in_a_batch_of_any_order() -> None:
    ours, given = model(), prompts([9, 31, 64])

    def drawn(rows: list[int]) -> list[list[int]]:
        choose = choosing(Sampling(1.0, top_tokens=20, top_p=0.9), rows)
        steps = written(ours, [given[row] for row in rows], 8, choose)
        return [list(row) for row in zip(*steps, strict=True)]

    together = drawn([0, 1, 2])
    assert [drawn([row])[0] for row in range(3)] == together == drawn([2, 0, 1])[1:] + drawn([2, 0, 1])[:1]
    assert len({tuple(row) for row in together}) == 3


def test_a_prompt_read_in_pieces_is_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, given = model(), prompts([130, 40])
    wanted = [recomputed(ours, prompt, 4) for prompt in given]
    for piece in (1, 2, 50, 129):
        monkeypatch.setattr(writing, "PIECE_TOKENS", piece)
        assert texts(ours, given, 4) == wanted


def test_a_rank_knows_what_it_will_remember() -> None:
    ours, given = model(), prompts([20])
    known = memory.empty(ours, 1, 24)
    positions = torch.arange(20)[None]
    writing.advance(ours, known, torch.tensor(given), torch.ones(1, 20, dtype=torch.int32), positions)
    held = [*known.keys.values(), *known.values.values(), known.documents]
    held += [tensor for carried in known.carried.values() if carried for tensor in carried[:2]]
    assert sum(tensor.nbytes for tensor in held) == memory.bytes_of(ours, 1, 24)


def test_nothing_to_write_on_from_is_refused() -> None:
    for given in ([], [[1], []]):
        with pytest.raises(UserError, match="a prompt of one token at least"):
            next(written(model(), given, 1, likeliest))
