"""Greedy text after a context, up to the first stop string."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from ..model.bamba import Bamba
from ..sampling import continued


def text_until(
    model: Bamba, tokenizer: Tokenizer, context: list[int], stops: Sequence[str], last: int, new_tokens: int
) -> str:
    """What the model writes after `context`, without the stop string that ended it.

    Args:
        context: Token ids; not empty.
        stops: Texts that end it, in themselves no part of it.
        last: The id of the token that ends a text.
        new_tokens: It ends after so many tokens in any case.
    """
    ids = list(context)
    generator = torch.Generator()  # never drawn from: the likeliest token is taken
    text = ""
    for _ in range(new_tokens):
        ids = continued(model, ids, 1, 0.0, 1, generator)
        if ids[-1] == last:
            break
        text = tokenizer.decode(ids[len(context) :])
        found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
    return text
