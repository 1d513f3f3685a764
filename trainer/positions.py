"""Loss by position in the context: does the model use what it read, and up to where?

    bands = losses_by_position(model, batches, row_tokens, device, micro_rows=2)

A target's context is the tokens of its own document that stand before it in the row. Contexts are counted in bands that
double: 1, 2 to 3, 4 to 7 and so on. A model that uses more has a curve that goes down; one that was not trained for so
long a context has one that turns up.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .context.exchange import end_to_end
from .data.batch import Batch
from .model.bamba import Bamba


@dataclass(frozen=True, slots=True)
class Band:
    """`first` to `last`: tokens of context, both counted in; `loss` in nats a target, the mean over `targets`."""

    first: int
    last: int
    loss: float
    targets: int


@torch.no_grad()
def losses_by_position(
    model: Bamba, batches: Iterable[Mapping[str, Tensor]], row_tokens: int, device: torch.device, micro_rows: int
) -> list[Band]:
    """The bands of which a target came, the shortest context first, over all ranks that call this together.

    Args:
        batches: As the loader yields them.
        row_tokens: No context is longer.
    """
    count, context = row_tokens.bit_length(), model.context
    sums, targets = torch.zeros(2, count, dtype=torch.float64, device=device)
    for loaded in batches:
        for part in Batch.of(loaded).micro(micro_rows):
            on = part.to(device)
            _, losses = model.losses(on.input_ids, on.documents, on.positions, on.labels)
            real = on.labels >= 0
            # frexp gives the bits of a number exactly: 1 has one bit, 2 and 3 have two. A logarithm would round.
            seen = contexts(end_to_end(on.documents, context) if context.ranks > 1 else on.documents)
            own = seen.chunk(context.ranks, 1)[context.rank][real]
            bands = torch.frexp(own.double()).exponent.long() - 1
            sums.index_add_(0, bands, losses[real].double())
            targets += torch.bincount(bands, minlength=count)
    table = torch.stack([sums, targets])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(table)
    found = enumerate(zip(*table.tolist(), strict=True))
    return [
        Band(2**band, min(2 ** (band + 1) - 1, row_tokens), total / number, round(number))
        for band, (total, number) in found
        if number
    ]


def contexts(documents: Tensor) -> Tensor:
    """(rows, tokens) int64: how many tokens of its own document a target is predicted from, 1 at the document's first
    input. Counted from what attention and the scan see, not from `position_ids`, which say where rotations begin.

    Args:
        documents: (rows, tokens), ascending along a row.
    """
    places = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    begins = documents.diff(dim=1, prepend=documents[:, :1] - 1) != 0
    return places - torch.where(begins, places, 0).cummax(1).values + 1


def table(bands: Sequence[Band]) -> str:
    """A line for each band."""
    names = [f"{band.first:,}" if band.first == band.last else f"{band.first:,}-{band.last:,}" for band in bands]
    width = max(len("context, tokens"), *map(len, names))
    lines = [f"{'context, tokens':<{width}}    loss       targets"]
    lines += [
        f"{name:<{width}}  {band.loss:6.4f}  {band.targets:>12,}" for name, band in zip(names, bands, strict=True)
    ]
    return "\n".join(lines)


def write_csv(bands: Sequence[Band], file: Path) -> None:
    """The bands, a line each."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        written = csv.writer(opened)
        written.writerow(Band.__slots__)
        written.writerows([getattr(band, name) for name in Band.__slots__] for band in bands)


def draw(bands: Sequence[Band], title: str, picture: Path) -> None:
    """Context across, doubling; loss up; the format is what the name says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Any = figure.subplots()
    middles = [(band.first * band.last) ** 0.5 for band in bands]
    axes.plot(middles, [band.loss for band in bands], marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    marks = [band.first for band in bands]
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks], rotation=45)
    axes.set_xlabel("context, tokens of the same document before the target")
    axes.set_ylabel("loss, nats a target")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, linewidth=0.3)
    figure.savefig(picture, dpi=120)
