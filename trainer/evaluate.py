"""Loss on rows that training never saw, by source, and perplexity of any text file.

    python -m trainer.evaluate CHECKPOINT --data URL                          the dataset's held-out documents, once
    python -m trainer.evaluate CHECKPOINT --text FILE --tokenizer JSON        a text, in rows of the recipe's length

Losses are in nats a token. One process, one device.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from tokenizers import Tokenizer
from torch import Tensor

from bamba_data import edge
from bamba_data.canonical import dumps
from bamba_data.errors import UserError
from loader import build_loader
from loader.plan import loads
from trainer.batch import Batch
from trainer.checkpoint.plain import Saved
from trainer.model.bamba import Bamba

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@torch.no_grad()
def losses_by_source(
    model: Bamba,
    batches: Iterable[Mapping[str, Tensor]],
    sources: Sequence[str],
    device: torch.device,
    micro_rows: int,
) -> dict[str, tuple[float, int]]:
    """The mean loss of each source and how many targets it is of, over all ranks that call this together."""
    sums = torch.zeros(len(sources) + 1, dtype=torch.float64, device=device)
    counts = torch.zeros_like(sums)
    for loaded in batches:
        for part in Batch.of(loaded).micro(micro_rows):
            on = part.to(device)
            _, losses = model.losses(on.input_ids, on.documents, on.positions, on.labels)
            bins = on.sources.remainder(len(sources) + 1)
            sums.index_add_(0, bins, losses.sum(1, dtype=torch.float64))
            counts.index_add_(0, bins, (on.labels >= 0).sum(1).double())
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
        dist.all_reduce(counts)
    found = zip(sources, sums.tolist(), counts.tolist(), strict=False)
    return {name: (total / count, round(count)) for name, total, count in found if count}


def text_loss(model: Bamba, ids: list[int], row_tokens: int, device: torch.device) -> tuple[float, int]:
    """The mean loss over a text and how many tokens were predicted. Rows begin where the one before ended, so the first
    tokens of each have little before them: the figure is a little high."""
    total, count = 0.0, 0
    for at in range(0, len(ids) - 1, row_tokens):
        row = torch.tensor(ids[at : at + row_tokens + 1], device=device)[None]
        documents = torch.zeros(row[:, :-1].shape, dtype=torch.int32, device=device)
        positions = torch.arange(documents.shape[1], device=device)[None]
        with torch.no_grad():
            _, losses = model.losses(row[:, :-1], documents, positions, row[:, 1:])
        total += losses.sum(dtype=torch.float64).item()
        count += losses.numel()
    return total / max(count, 1), count


@app.command()
def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A run, or one of its checkpoints.")],
    data: Annotated[list[str] | None, typer.Option(metavar="URL", help="Datasets whose held-out part is read.")] = None,
    text: Annotated[Path | None, typer.Option(help="A text file.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The tokenizer.json that the model was trained with.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="So many rows of the held-out part, not all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Evaluate a checkpoint."""
    if bool(data) == (text is not None):
        raise UserError("give either --data or --text")
    saved = Saved(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = saved.model(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    row_tokens = saved.commit["recipe"].get("data", {}).get("row_tokens", 4096)
    found: dict[str, tuple[float, int]]
    if text is not None:
        if tokenizer is None:
            raise UserError("--text needs --tokenizer")
        ids = Tokenizer.from_file(str(tokenizer)).encode(text.read_text(encoding="utf-8")).ids
        found = {str(text): text_loss(model, ids, row_tokens, device)}
    else:
        if "plan" not in saved.commit.get("feed", {}):
            raise UserError(f"{checkpoint} was not trained on a dataset of ours: it does not say what was held out")
        plan = loads(dumps(saved.commit["feed"]["plan"]), "the plan in the checkpoint")
        loader = build_loader(data or [], num_workers=0, plan=plan, split="holdout")
        batches = loader if rows is None else first_rows(loader, rows)
        found = losses_by_source(model, batches, sorted(loader.plan.sources), device, micro_rows=2)
    if as_json:
        values = {name: {"loss": loss, "targets": count} for name, (loss, count) in found.items()}
        sys.stdout.write(json.dumps({"step": saved.commit["step"], "losses": values}) + "\n")
        return
    for name, (loss, count) in found.items():
        sys.stdout.write(f"{name}: loss {loss:.4f}, perplexity {math.exp(loss):,.2f}, {count:,} targets\n")


def first_rows(batches: Iterable[Mapping[str, Tensor]], rows: int) -> Iterable[Mapping[str, Tensor]]:
    """Whole batches, until they are so many rows on this rank."""
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch["row"])
        if seen >= rows:
            return


if __name__ == "__main__":
    sys.exit(edge.run(app))
