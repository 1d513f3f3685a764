"""What a GPU writes on token by token, by the fused step and its graph, is what a CPU makes of the whole text."""

import random

import pytest
import torch

from tests.trainer.greedy import prompts, texts
from tests.trainer.small import CONFIG, model
from trainer.model.bamba import Bamba

NEW_TOKENS = 8  # from the third on they come of a captured graph


@torch.no_grad()
def is_of_the_whole(ours: Bamba, prompt: list[int], new: list[int]) -> bool:
    """Whether each new token is the likeliest one behind all before it: no position sees what comes after it."""
    row = torch.tensor(prompt + new[:-1])[None]
    logits = ours.logits(row, torch.zeros_like(row, dtype=torch.int32), torch.arange(row.shape[1])[None])
    return logits[0, len(prompt) - 1 :].argmax(-1).tolist() == new


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; tests/trainer/test_decode.py is the CPU's")
@pytest.mark.parametrize("change", [{}, {"attention_layers": "all"}, {"attention_layers": [], "mamba_groups": 2}])
def test_200_prompts_of_odd_lengths_are_written_on_alone_by_eight_and_in_any_order(change: dict[str, object]) -> None:
    config = CONFIG.model_copy(update=change)
    on_cpu, on_gpu = model(config=config), model(config=config).cuda()
    draw = random.Random(5)
    given = prompts([draw.randrange(1, 200, 2) for _ in range(200)])
    alone = [texts(on_gpu, [prompt], NEW_TOKENS)[0] for prompt in given]
    assert [number for number, row in enumerate(given) if not is_of_the_whole(on_cpu, row, alone[number])] == []
    order = draw.sample(range(200), 200)
    for start in range(0, 200, 8):
        batch = order[start : start + 8]
        assert texts(on_gpu, [given[row] for row in batch], NEW_TOKENS) == [alone[row] for row in batch]
