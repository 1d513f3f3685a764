"""Texts that are written on greedily, by the memory of layers or from the whole text anew for every token."""

import torch

from tests.trainer.small import CONFIG
from trainer.decode.sampling import likeliest
from trainer.decode.writing import written
from trainer.model.bamba import Bamba


def prompts(lengths: list[int]) -> list[list[int]]:
    make = torch.Generator().manual_seed(3)
    return [torch.randint(0, CONFIG.vocab_size, (length,), generator=make).tolist() for length in lengths]


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
