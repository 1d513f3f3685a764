"""Texts written side by side, each up to its own end."""

from collections.abc import Callable, Sequence

from ..model.bamba import Bamba
from .sampling import Choose
from .text import Text
from .writing import written


def write(
    model: Bamba,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Text],
    choose: Choose,
    show: Callable[[int, str], None] = lambda row, new: None,
) -> None:
    """Write on from `prompts` until every one of `texts`, one a prompt, has its end.

    Args:
        prompts: Token ids of each row, one at least; of any lengths.
        choose: How a token is chosen (sampling.py).
        show: Called with a row's number and its new characters, as they come.
    """
    most = max(text.until.new_tokens for text in texts)
    for tokens in written(model, prompts, most, choose):
        for row, (text, token) in enumerate(zip(texts, tokens, strict=True)):
            if new := text.add(token):
                show(row, new)
        if all(text.why for text in texts):
            return
