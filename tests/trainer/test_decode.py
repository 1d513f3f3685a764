"""What is written token by token is what the whole model gives for the whole text, whatever stands beside it."""

import pytest
import torch

from bamba_data.errors import UserError
from tests.trainer.small import CONFIG, model
from trainer.decode import memory, writing
from trainer.decode.writing import written
from trainer.model.bamba import Bamba

LENGTHS = [1, 2, 3, 5, 63, 64, 65, 130]


def prompts(lengths: list[int]) -> list[list[int]]:
    make = torch.Generator().manual_seed(3)
    return [torch.randint(0, CONFIG.vocab_size, (length,), generator=make).tolist() for length in lengths]


def likeliest(logits: torch.Tensor) -> list[int]:
    found: list[int] = logits.argmax(-1).tolist()
    return found


def texts(ours: Bamba, given: list[list[int]], new_tokens: int) -> list[list[int]]:
    return [list(row) for row in zip(*written(ours, given, new_tokens, likeliest), strict=True)]


@torch.no_grad()
def recomputed(ours: Bamba, prompt: list[int], new_tokens: int) -> list[int]:
    """All of the text through the model again for every token."""
    ids = list(prompt)
    for _ in range(new_tokens):
        row = torch.tensor(ids)[None]
        logits = ours.logits(row, torch.zeros_like(row, dtype=torch.int32), torch.arange(len(ids))[None])
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "change",
    [{}, {"attention_layers": "all"}, {"attention_layers": [], "mamba_groups": 2, "mamba_norm_groups": 2}],
)
def test_tokens_are_those_of_the_whole_text_alone_and_in_a_batch_of_any_order(change: dict[str, object]) -> None:
    config = CONFIG.model_copy(update=change)
    ours, given = model(config=config), prompts(LENGTHS)
    wanted = [recomputed(ours, prompt, 6) for prompt in given]
    assert [texts(ours, [prompt], 6)[0] for prompt in given] == wanted
    assert texts(ours, given, 6) == wanted
    assert texts(ours, given[::-1], 6) == wanted[::-1]


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
