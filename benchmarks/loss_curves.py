"""Compare the losses of training runs over the same rows, whose first values may differ: a picture and a table.

    python -m benchmarks.loss_curves bfloat16=A/metrics.jsonl bfloat16=B/metrics.jsonl float8=C/metrics.jsonl … \
        --picture curves.png

Runs of one name are seeds of the same thing. The table has the mean loss of each tenth of the run: of every name the
mean over its seeds and their standard deviation, how far the means of the others lie from the first's, and beside it
the spread of seeds, which is the root mean square of both deviations. A difference no larger is `within` it. Of a name
with one run there is no spread. Held-out losses are those of the last evaluation that all runs had. The picture has the
mean of each name in a band from its least to its greatest seed, and below both again by how far they lie from the mean
of the first, with the spread as dashes.
docs/kernels.md says which runs were compared by it.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from bamba_data import exit_codes
from bamba_data.errors import UserError

Losses = dict[int, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A run's loss at every step that was logged, and its held-out losses, by source, at every evaluation."""

    losses: Losses
    held_out: dict[int, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Seeds:
    """One figure of each run of a name."""

    values: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.deviation is not None else "")


def read(file: Path) -> Curve:
    """From a run's metrics.jsonl."""
    losses: Losses = {}
    held_out: dict[int, dict[str, float]] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        if "loss" in line:
            losses[line["step"]] = line["loss"]
        elif line.get("event") == "held out":
            named = {key.partition("/")[2]: value for key, value in line.items() if key.startswith("held_out/")}
            held_out[line["step"]] = named
    if not losses:
        raise UserError(f"{file}: no losses in it; give a run's metrics.jsonl")
    return Curve(losses, held_out)


def spread(one: Seeds, other: Seeds) -> float | None:
    """Of the seeds of both, the root mean square of their deviations; None where one has no seeds to differ."""
    if one.deviation is None or other.deviation is None:
        return None
    return math.sqrt((one.deviation**2 + other.deviation**2) / 2)


def compared(base: Seeds, other: Seeds) -> str:
    """How far the mean of `other` lies from that of `base`, and whether seeds lie as far apart."""
    difference = other.mean - base.mean
    said = f"{other}  {difference:+.4f} ({difference / base.mean:+.2%})"
    between = spread(base, other)
    if between is None:
        return said
    return f"{said}, {'within' if abs(difference) <= between else 'beyond'} {between:.4f}"


def rows(named: dict[str, list[Curve]]) -> dict[str, dict[str, Seeds]]:
    """The rows of the table, by what they are of: the figures of every name. A tenth of which a run has nothing is left
    out."""
    curves = [curve for listed in named.values() for curve in listed]

    def row(figure: Callable[[Curve], float]) -> dict[str, Seeds]:
        return {name: Seeds([figure(curve) for curve in listed]) for name, listed in named.items()}

    steps = min(max(curve.losses) for curve in curves)
    found = {}
    for part in range(10):
        first, last = part * steps / 10, (part + 1) * steps / 10
        if all(any(first < step <= last for step in curve.losses) for curve in curves):
            found[f"{first + 1:.0f} to {last:.0f}"] = row(partial(_mean, first=first, last=last))
    if both := set.intersection(*(set(curve.held_out) for curve in curves)):
        at = max(both)
        sources = sorted(set.intersection(*(set(curve.held_out[at]) for curve in curves)))
        for source in sources:
            found[f"held out, {source}"] = row(lambda curve, source=source: curve.held_out[at][source])  # type: ignore[misc]
        found[f"held out at {at}, mean"] = row(
            lambda curve: statistics.fmean(curve.held_out[at][source] for source in sources)
        )
    return found


def _mean(curve: Curve, first: float, last: float) -> float:
    return statistics.fmean(loss for step, loss in curve.losses.items() if first < step <= last)


def command(
    runs: Annotated[list[str], typer.Argument(metavar="NAME=METRICS.JSONL…", help="The first is compared with.")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw the curves.")] = None,
) -> None:
    """Compare runs."""
    named: dict[str, list[Curve]] = {}
    for name, _, file in (run.partition("=") for run in runs):
        named.setdefault(name, []).append(read(Path(file)))
    base, *others = named
    heads = [f"{name}, {len(listed)} seed{'s' * (len(listed) > 1)}" for name, listed in named.items()]
    typer.echo(f"| mean loss of steps | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for what, row in rows(named).items():
        cells = [str(row[base]), *(compared(row[base], row[name]) for name in others)]
        typer.echo(f"| {what} | {' | '.join(cells)} |")
    if picture:
        draw(named, picture)


def draw(named: dict[str, list[Curve]], file: Path) -> None:
    """Means over every 10 logged steps, or of a short run over fewer: of each name, and how far they lie from the
    first's."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[1, 1])
    width = max(1, min(10, min(len(curve.losses) for listed in named.values() for curve in listed) // 20))
    smooth = {name: [_smooth(curve.losses, width) for curve in listed] for name, listed in named.items()}
    shared = sorted(set.intersection(*(set(curve) for curves in smooth.values() for curve in curves)))
    seeds = {name: [Seeds([curve[at] for curve in curves]) for at in shared] for name, curves in smooth.items()}
    base, first = next(iter(seeds.items()))

    def off(values: Iterable[float]) -> list[float]:
        return [100 * (value / point.mean - 1) for value, point in zip(values, first, strict=True)]

    for number, (name, points) in enumerate(seeds.items()):
        color, count = f"C{number}", len(named[name])
        means = [point.mean for point in points]
        least, greatest = [min(point.values) for point in points], [max(point.values) for point in points]
        label = f"{name}, mean of {count} seeds" if count > 1 else name
        above.plot(shared, means, linewidth=1, color=color, label=label)
        above.fill_between(shared, least, greatest, color=color, alpha=0.25, linewidth=0)
        below.plot(shared, off(means), linewidth=1.5, color=color)
        band = f"{name}, least to greatest seed" if count > 1 else None
        below.fill_between(shared, off(least), off(greatest), color=color, alpha=0.2, linewidth=0, label=band)
        between = [100 * (spread(one, point) or 0) / one.mean for one, point in zip(first, points, strict=True)]
        if points is not first and any(between):
            for side, said in ((1, f"spread of seeds of {base} and {name}"), (-1, None)):
                edge = [side * x for x in between]
                below.plot(shared, edge, linewidth=1, color=color, linestyle="--", label=said)
    above.set_ylabel("loss, nats a token")
    above.legend()
    below.set_ylabel(f"from {base}, %")
    if below.get_legend_handles_labels()[0]:
        low, high = below.get_ylim()
        below.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
        below.legend(loc="upper center", ncols=2, fontsize="small")
    below.set_xlabel("step")
    figure.savefig(file, dpi=110)


def _smooth(losses: Losses, width: int) -> Losses:
    steps = sorted(losses)
    groups = [steps[at : at + width] for at in range(0, len(steps), width)]
    return {group[-1]: statistics.fmean(losses[step] for step in group) for group in groups}


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(command)
    sys.exit(exit_codes.run(app))
