"""Continue a text, for a look at what a model writes (`bamba-data model generate CHECKPOINT --prompt TEXT`).

By what the layers remember of the text (decode/): a token costs the same however long the text is, but for attention.
To serve a model, export it (hf/export.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bamba_data.errors import UserError

from .checkpoint.reader import SavedCheckpoint
from .checkpoint.tokenizer import of_checkpoint
from .decode.writing import written
from .model.bamba import Bamba


def continued(
    model: Bamba, ids: list[int], tokens: int, temperature: float, top: int, generator: torch.Generator
) -> list[int]:
    """`ids` and `tokens` more, each drawn from the `top` likeliest; a temperature of 0 takes the likeliest."""
    draw = drawing(temperature, top, [generator])
    return [*ids, *(step[0] for step in written(model, [ids], tokens, draw))]


def drawing(temperature: float, top: int, generators: Sequence[torch.Generator]) -> Callable[[Tensor], list[int]]:
    """How the next token of each row is chosen, each with a generator of its own: a row's text does not depend on the
    others."""
    return lambda logits: [_drawn(*row, temperature, top) for row in zip(logits, generators, strict=True)]


def _drawn(logits: Tensor, generator: torch.Generator, temperature: float, top: int) -> int:
    if temperature == 0:
        return int(logits.argmax())
    values, indices = (one.cpu() for one in logits.topk(min(top, len(logits))))  # the generator is the host's
    chosen = torch.multinomial(torch.softmax(values / temperature, 0), 1, generator=generator)
    return int(indices[chosen])


def generated(
    checkpoint: str, prompt: str, tokenizer: Path | None, tokens: int, temperature: float, top: int, seed: int
) -> str:
    """`prompt` and what the model of a checkpoint goes on with. `UserError` for a prompt that makes no token."""
    saved = SavedCheckpoint(checkpoint)
    loaded = of_checkpoint(saved, tokenizer).tokenizer
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = saved.model(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    ids = loaded.encode(prompt).ids
    if not ids:
        raise UserError("--prompt makes no token")
    generator = torch.Generator().manual_seed(seed)
    text: str = loaded.decode(continued(model, ids, tokens, temperature, top, generator))
    return text
