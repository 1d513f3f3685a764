"""What long rows are for: a model that is given long documents whole, beside one that is given them in pieces.

    python -m benchmarks.context_gain OUT --picture context_gain.png                # a CPU, some minutes of a core
    torchrun --nproc-per-node 2 -m benchmarks.context_gain OUT --context-ranks 2    # long rows, each shared by two

Documents are made: a dictionary, in which each key has one value, the document's own, wherever it comes. A value can be
known only from where its key stood before, so what comes late in a document is told by what came early. Targets are the
values. All models take as many tokens: `whole` in rows that hold a document each; `pieces` the same documents in the
same order, in rows an eighth as long; `then whole` four fifths of the steps as `pieces` and the rest whole (documents
begin anew), as the recipes for long rows go on from short ones.

The table and the picture are of documents that nobody trained on: the loss by how deep in its document a value stands;
of `pieces` on pieces, as it was trained, and on whole documents, which it was not. Beside them the least that is
possible, of one who remembers every key of the document, and of its piece.
"""

import math
import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from bamba_data import exit_codes
from bamba_data.terminal import emit
from benchmarks.made_rows import HELD_OUT, MadeRows
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.config import load_recipe
from trainer.distributed.fsdp import World, joined
from trainer.loss import IGNORED
from trainer.train import train

RECIPE = Path(__file__).with_suffix(".yaml")
KEYS, VALUES = 16, 16
LONG, PIECES = 256, 8  # tokens of a document, and how many rows it is in `pieces`
DOCUMENTS = 256  # held out


def document(number: int) -> Tensor:
    """(LONG + 1,) int64, a pure function of the number: key, its value, key, its value …, and one key more."""
    drawn = torch.Generator().manual_seed(number + 1)
    values = KEYS + torch.randint(VALUES, (KEYS,), generator=drawn)
    keys = torch.randint(KEYS, (LONG // 2 + 1,), generator=drawn)
    return torch.stack([keys, values[keys]], 1).flatten()[: LONG + 1]


def row_of(number: int, pieces: int) -> dict[str, Tensor]:
    """Row `number`: a piece of a document, of which the first row has the first."""
    tokens = document(number // pieces).unfold(0, LONG // pieces + 1, LONG // pieces)[number % pieces]
    return {
        "input_ids": tokens[:-1],
        "labels": torch.where(tokens[1:] < KEYS, IGNORED, tokens[1:]),
        "position_ids": torch.arange(len(tokens) - 1),
        "seq_idx": torch.zeros(len(tokens) - 1).int(),
        "row": torch.tensor(number),
        "source": torch.tensor(0),
    }


class Dictionaries(MadeRows):
    """See `row_of`."""

    def __init__(self, pieces: int, batch_rows: int, world: World) -> None:
        super().__init__("dictionaries", batch_rows, world)
        self.pieces = pieces

    def made(self, row: int) -> dict[str, Tensor]:
        return row_of(row, self.pieces)


def learn(out: Path, pieces: int, context_ranks: int, overrides: list[str]) -> None:
    """To the recipe's last step, or on from where it was stopped. Rows an eighth as long are eight times as many."""
    rows = load_recipe(str(RECIPE), overrides).data.batch_rows * pieces
    of_a_rank = rows * context_ranks // int(os.environ.get("WORLD_SIZE", "1"))
    sizes = {"data.row_tokens": LONG // pieces, "data.batch_rows": rows, "compute.micro_rows": of_a_rank}
    sizes["compute.context_ranks"] = context_ranks
    recipe = load_recipe(str(RECIPE), [*overrides, *(f"{name}={value}" for name, value in sizes.items())])
    with joined(context_ranks) as world:
        train(recipe, Dictionaries(pieces, rows, world), world, str(out), out, accept_changes=False)


def _end_of(run: Path, overrides: list[str]) -> list[str]:
    """The last fifth of a run, by what differs from its recipe: from the checkpoint there, at a low rate."""
    recipe = load_recipe(str(RECIPE), overrides)
    steps, every = recipe.schedule.steps, recipe.checkpoints.every_steps
    begin = steps * 4 // 5 // every * every
    rate = 0.3 * recipe.schedule.peak_lr
    changed = {"start_from": f"{run}@{begin}", "schedule.steps": steps - begin, "schedule.peak_lr": rate}
    return [f"{name}={value}" for name, value in (changed | {"schedule.warmup_steps": 5}).items()]


@torch.no_grad()
def losses(run: Path, pieces: int) -> Tensor:
    """(values of a document,) in nats: the mean over held-out documents that are read in so many pieces."""
    model = SavedCheckpoint(str(run)).model(torch.device("cpu"), torch.float32)
    rows = [row_of((HELD_OUT + at) * pieces + piece, pieces) for at in range(DOCUMENTS) for piece in range(pieces)]
    whole = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "seq_idx", "position_ids", "labels"))
    _, each = model.losses(*whole)
    return each.view(DOCUMENTS, LONG)[:, ::2].mean(0)


def least(pieces: int) -> Tensor:
    """(values of a document,): the expected loss of one who remembers all that the piece has said so far."""
    before = torch.arange(LONG // 2) % (LONG // 2 // pieces)
    return (1 - 1 / KEYS) ** before * math.log(VALUES)


def table(curves: dict[str, Tensor]) -> str:
    """The mean of each curve over bands of depth that double."""
    lines = ["| values before it in the document | " + " | ".join(curves) + " |", "| --- |" + " ---: |" * len(curves)]
    first = 0
    for last in (2**power - 1 for power in range(1, LONG.bit_length() - 1)):
        means = " | ".join(f"{curve[first : last + 1].mean():.3f}" for curve in curves.values())
        lines.append(f"| {first} to {last} | {means} |")
        first = last + 1
    return "\n".join([*lines, f"| all | {' | '.join(f'{curve.mean():.3f}' for curve in curves.values())} |"])


def draw(curves: dict[str, Tensor], picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        dotted = "least" in name
        axes.plot(range(len(curve)), curve, linewidth=1, linestyle=":" if dotted else "-", label=name)
    axes.set_xlabel("values before it in the document")
    axes.set_ylabel("loss of a value, nats")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.grid(visible=True, linewidth=0.3)
    figure.savefig(picture, dpi=110)


def command(
    out: Annotated[Path, typer.Argument(help="A folder for the runs; what was trained there is not trained again.")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw the curves.")] = None,
    context_ranks: Annotated[int, typer.Option(min=1, help="Ranks that share each long row.")] = 1,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Of the recipe.")] = None,
) -> None:
    """Train all, and compare them by depth."""
    torch.set_num_threads(1)  # so small a model gains nothing by more
    learn(out / "whole", 1, context_ranks, overrides or [])
    learn(out / "pieces", PIECES, 1, overrides or [])
    learn(out / "then", 1, context_ranks, [*(overrides or []), *_end_of(out / "pieces", overrides or [])])
    if int(os.environ.get("RANK", "0")):
        return
    curves = {
        "whole": losses(out / "whole", 1),
        "pieces": losses(out / "pieces", PIECES),
        "pieces, reading whole": losses(out / "pieces", 1),
        "then whole": losses(out / "then", 1),
        "least, whole": least(1),
        "least, pieces": least(PIECES),
    }
    emit(table(curves))
    if picture:
        draw(curves, picture)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(command)
    sys.exit(exit_codes.run(app))
