"""The numbers of one checkpoint or several beside each other: a table, a file, a picture over the steps."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data.errors import UserError

from ..checkpoint.commits import folders
from ..checkpoint.locate import locate_checkpoint


@dataclass(frozen=True, slots=True)
class Numbers:
    """A checkpoint's result on a suite.

    Attributes:
        run: URL of the folder that holds the checkpoint.
        name: The checkpoint's own folder in it.
        checkpoint: Digest of its commit.
        tasks: {task: number}, between 0 and 1.
        mean: Of the tasks.
    """

    run: str
    name: str
    step: int
    checkpoint: str
    tasks: dict[str, float]
    mean: float

    @property
    def lines(self) -> list[tuple[str, float]]:
        return [*self.tasks.items(), ("mean", self.mean)]


def checkpoints_of(urls: Sequence[str], *, every: bool) -> list[str]:
    """The URLs of the checkpoints that are meant, each once.

    Args:
        urls: Runs, or checkpoints' own folders; a run means its newest checkpoint.
        every: A run means all its committed checkpoints, the oldest first.

    Raises:
        UserError: There is none at a URL, one is meant twice, or `every` is asked of a single checkpoint.
    """
    meant = []
    for url in urls:
        store, newest = locate_checkpoint(url)
        names = [newest]
        if every:
            if url.rstrip("/").endswith(newest):
                raise UserError(f"--every-checkpoint is of a run, and {url} is one checkpoint: name its run")
            names = [folder.name for folder in reversed(folders(store)) if folder.whole]
        meant += [f"{store.url.rstrip('/')}/{name}" for name in names]
    if twice := {url for url in meant if meant.count(url) > 1}:
        raise UserError(f"{min(twice)} is asked for twice")
    return meant


def table(results: Sequence[Numbers]) -> str:
    """In per cent: a line for each task and for the mean, a column for each checkpoint, in the order given."""
    width = max(len(name) for name, _ in results[0].lines)
    if len(results) == 1:
        head = [f"step {results[0].step:,}, checkpoint {results[0].checkpoint[:12]}"]
    else:
        head = [f"{at}: step {one.step:,}, {one.run.rstrip('/')}/{one.name}" for at, one in enumerate(results, 1)]
        head += ["", " " * width + "".join(f"{at:>8}" for at in range(1, len(results) + 1))]
    columns = [dict(one.lines) for one in results]
    return "\n".join(
        head + [f"{name:{width}}" + "".join(f"{100 * column[name]:8.2f}" for column in columns) for name in columns[0]]
    )


def write_csv(results: Sequence[Numbers], file: Path) -> None:
    """A line for each checkpoint and task: run, name, step, checkpoint, task, number."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        written = csv.writer(opened)
        written.writerow(["run", "name", "step", "checkpoint", "task", "number"])
        for one in results:
            about = [one.run, one.name, one.step, one.checkpoint]
            written.writerows([*about, name, value] for name, value in one.lines)


def draw(results: Sequence[Numbers], title: str, picture: Path) -> None:
    """Steps across, per cent up: a colour for each task, the mean in black, another dash for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    runs = list(dict.fromkeys(one.run for one in results))
    for number, run in enumerate(runs):
        of_run = sorted((one for one in results if one.run == run), key=lambda one: one.step)
        steps, dash = [one.step for one in of_run], ("-", "--", ":", "-.")[number % 4]
        for colour, name in enumerate(of_run[0].tasks):
            values = [100 * one.tasks[name] for one in of_run]
            label = name if number == 0 else None
            axes.plot(steps, values, f"C{colour}o", linestyle=dash, linewidth=1, markersize=3, label=label)
        mean = [100 * one.mean for one in of_run]
        label = "mean" if len(runs) == 1 else f"mean, {run.rstrip('/').removesuffix('/checkpoints').split('/')[-1]}"
        axes.plot(steps, mean, "ko", linestyle=dash, linewidth=2, markersize=4, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("per cent")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, linewidth=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(picture, dpi=120)
