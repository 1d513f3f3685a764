"""Compare the losses of training runs over the same rows: a picture and a table.

    python -m benchmarks.loss_curves bfloat16=A/metrics.jsonl float8=B/metrics.jsonl --picture curves.png

The table has the mean loss of each tenth of the run and how far the others lie from the first. Held-out losses are
those of the last evaluation. docs/kernels.md says which runs were compared by it.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from bamba_data import exit_codes
from bamba_data.errors import UserError

Losses = dict[int, float]


def read(file: Path) -> tuple[Losses, dict[str, float]]:
    """The loss of every step that was logged, and the last held-out loss of each source."""
    losses: Losses = {}
    held_out: dict[str, float] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        if "loss" in line:
            losses[line["step"]] = line["loss"]
        elif line.get("event") == "held out":
            held_out = {key.partition("/")[2]: value for key, value in line.items() if key.startswith("held_out/")}
    if not losses:
        raise UserError(f"{file}: no losses in it; give a run's metrics.jsonl")
    return losses, held_out


def tenths(losses: Losses, steps: int) -> list[float]:
    """The mean loss of each tenth of `steps`."""
    width = steps / 10
    return [
        statistics.fmean(loss for step, loss in losses.items() if part * width < step <= (part + 1) * width)
        for part in range(10)
    ]


def command(
    runs: Annotated[list[str], typer.Argument(metavar="NAME=METRICS.JSONL…", help="The first is compared with.")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw the curves.")] = None,
) -> None:
    """Compare runs."""
    named = {name: read(Path(file)) for name, _, file in (run.partition("=") for run in runs)}
    steps = min(max(losses) for losses, _ in named.values())
    tables = {name: tenths(losses, steps) for name, (losses, _) in named.items()}
    first, *others = tables
    typer.echo(f"steps to   {first}" + "".join(f"  {name}" for name in others))
    for part, base in enumerate(tables[first]):
        rest = "".join(f"  {tables[name][part]:.4f} ({tables[name][part] / base - 1:+.2%})" for name in others)
        typer.echo(f"{round((part + 1) * steps / 10):>8}   {base:.4f}{rest}")
    for source, base in named[first][1].items():
        rest = "".join(f"  {named[name][1][source]:.4f} ({named[name][1][source] / base - 1:+.2%})" for name in others)
        typer.echo(f"held out   {source} {base:.4f}{rest}")
    if picture:
        draw(named, picture)


def draw(named: dict[str, tuple[Losses, dict[str, float]]], file: Path) -> None:
    """The mean over every 10 logged steps of each run, and its distance from the first run's."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    smooth = {name: _smooth(losses) for name, (losses, _) in named.items()}
    first = next(iter(smooth.values()))
    for name, curve in smooth.items():
        above.plot(list(curve), list(curve.values()), linewidth=1, label=name)
        both = [step for step in curve if step in first]
        below.plot(both, [100 * (curve[step] / first[step] - 1) for step in both], linewidth=1)
    above.set_ylabel("loss, nats a token")
    above.legend()
    below.set_ylabel("from the first, %")
    below.set_xlabel("step")
    figure.savefig(file, dpi=110)


def _smooth(losses: Losses, width: int = 10) -> Losses:
    steps = sorted(losses)
    groups = [steps[at : at + width] for at in range(0, len(steps), width)]
    return {group[-1]: statistics.fmean(losses[step] for step in group) for group in groups}


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(command)
    sys.exit(exit_codes.run(app))
