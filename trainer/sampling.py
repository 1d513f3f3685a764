"""Continue a text, for a look at what a model writes (`bamba-data model generate CHECKPOINT --prompt TEXT`).

The whole text goes through the model again for every token: right by construction and simple, and slow. To serve a
model, export it (hf/export.py).
"""

from pathlib import Path

import torch
from torch import Tensor

from bamba_data.errors import UserError

from .checkpoint.reader import SavedCheckpoint
from .checkpoint.tokenizer import of_checkpoint
from .model.bamba import Bamba


@torch.no_grad()
def continued(
    model: Bamba, ids: list[int], tokens: int, temperature: float, top: int, generator: torch.Generator
) -> list[int]:
    """`ids` and `tokens` more, each drawn from the `top` likeliest; a temperature of 0 takes the likeliest."""
    device = next(model.parameters()).device
    for _ in range(tokens):
        row = torch.tensor(ids, device=device)[None]
        positions = torch.arange(len(ids), device=device)[None]
        logits = model.logits(row, torch.zeros_like(row, dtype=torch.int32), positions)[0, -1].float().cpu()
        ids = [*ids, _drawn(logits, temperature, top, generator)]
    return ids


def _drawn(logits: Tensor, temperature: float, top: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    values, indices = logits.topk(min(top, len(logits)))
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
