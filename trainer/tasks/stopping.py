"""Greedy text after a context, up to the first stop string."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from ..decode.writing import written
from ..model.bamba import Bamba


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
    ids: list[int] = []
    text = ""
    for (token,) in written(model, [context], new_tokens, lambda logits: logits.argmax(-1).tolist()):
        if token == last:
            break
        ids.append(token)
        text = tokenizer.decode(ids)
        found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)]
    return text
