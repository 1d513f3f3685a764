"""`python -m trainer.generate CHECKPOINT --prompt TEXT`: a look at what a model writes.

The whole text goes through the model again for every token: right by construction and simple, and slow. To serve a
model, export it (trainer.export_hf).
"""

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bamba_data import exit_codes
from bamba_data.errors import UserError

from .checkpoint.reader import SavedCheckpoint
from .checkpoint.tokenizer import of_checkpoint
from .model.bamba import Bamba

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


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


@app.command()
def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A run, or one of its checkpoints.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Another tokenizer.json than the dataset's.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")] = 0.8,
    top: Annotated[int, typer.Option(min=1, help="Draw from so many of the likeliest tokens.")] = 50,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = 1,
) -> None:
    """Continue a text."""
    saved = SavedCheckpoint(checkpoint)
    loaded = of_checkpoint(saved, tokenizer).tokenizer
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = saved.model(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    ids = loaded.encode(prompt).ids
    if not ids:
        raise UserError("--prompt makes no token")
    generator = torch.Generator().manual_seed(seed)
    sys.stdout.write(loaded.decode(continued(model, ids, tokens, temperature, top, generator)) + "\n")


if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
