"""Which token comes next: the likeliest, or one drawn from the likeliest by a generator of the text's own.

    choose = choosing(Sampling(temperature=0.8, top_tokens=50), seeds=[1, 2])
    choose(logits)                                  # (2, vocab_size) -> [token, token]

A text draws from its own generator alone, so it does not depend on which others are written beside it, nor in what
order. The draw is on the host: the same seed is the same text wherever the logits come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bamba_data.errors import UserError

#: Of the logits (rows, vocab_size), float32 on the model's device, the next token of each row.
Choose = Callable[[Tensor], list[int]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn; what is left of the distribution after one rule goes through the next.

    Attributes:
        temperature: Logits are divided by it; 0 takes the likeliest token, whatever the other rules say.
        top_tokens: Only so many of the likeliest tokens; None for all.
        top_p: Only the likeliest tokens that together have this probability, one at least (arXiv 1904.09751).

    Raises:
        UserError: A value cannot be; it names the option.
    """

    temperature: float = 0.0
    top_tokens: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: it can be 0 or above")
        if self.top_tokens is not None and self.top_tokens < 1:
            raise UserError(f"top is {self.top_tokens}: one token at least must be left to draw from")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: it can be above 0 and at most 1")


def likeliest(logits: Tensor) -> list[int]:
    """The likeliest token of each row, the first of equal ones."""
    found: list[int] = logits.argmax(-1).tolist()
    return found


def choosing(sampling: Sampling, seeds: Sequence[int]) -> Choose:
    """How the next tokens of rows are chosen, a seed a row, from their first tokens on: it remembers its draws."""
    if sampling.temperature == 0:
        return likeliest
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda logits: _drawn(logits, generators, sampling)


def _drawn(logits: Tensor, generators: Sequence[torch.Generator], sampling: Sampling) -> list[int]:
    many = logits.shape[-1]
    values, tokens = logits.topk(min(sampling.top_tokens or many, many))  # the likeliest first
    shares = torch.softmax(values.cpu().double() / sampling.temperature, -1)
    if sampling.top_p < 1:
        before = shares.cumsum(-1) - shares
        before[:, 0] = 0  # rounding must not leave the first one out
        shares = shares.masked_fill(before >= sampling.top_p, 0)
    places = [
        int(torch.multinomial(row, 1, generator=own)) for row, own in zip(shares, generators, strict=True)
    ]  # of unnormalised shares, too
    return [int(row[place]) for row, place in zip(tokens.cpu(), places, strict=True)]
