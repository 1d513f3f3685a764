"""PhoneBook of a checkpoint: the model, its tokenizer, and the cells (`bamba-data model phonebook`)."""

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.reader import SavedCheckpoint
from ..checkpoint.tokenizer import of_checkpoint
from .book import Form
from .measure import Cell, measure

PROMPT_TOKENS = (1024, 2048, 4096)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def asked(
    checkpoint: str,
    tokenizer: Path | None,
    is_reversed: bool,
    tokens: Sequence[int] | None,
    depths: Sequence[float] | None,
    shots: int,
    trials: int,
    seed: int,
) -> list[Cell]:
    """The cells, on a GPU if there is one; see `measure`."""
    saved = SavedCheckpoint(checkpoint)
    loaded = of_checkpoint(saved, tokenizer).tokenizer
    model = saved.model_alone()
    form: Form = "reversed" if is_reversed else "standard"
    lengths = sorted(set(tokens or PROMPT_TOKENS))
    return measure(model, loaded, form, lengths, sorted(set(depths or DEPTHS)), shots, trials, seed)
