"""`python -m trainer.demo DATASET OUT`: a minute of training on a CPU, killed on the way and resumed on two ranks.

Trains the recipe tiny-cpu on a dataset, sends SIGKILL after half of its steps, goes on with `torchrun` on another
number of ranks, and draws the losses of both parts over each other.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bamba_data import exit_codes
from bamba_data.errors import Unfinished, UserError

from .config import load_recipe
from .observe.metrics import say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    dataset: Annotated[str, typer.Argument(metavar="URL", help="A dataset of the tokenizer that ships with us.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of the second part.")] = 2,
) -> None:
    """Train, kill, resume, draw."""
    if out.exists():
        raise UserError(f"{out} is there already: name a new folder, so that training begins at step 0")
    steps = load_recipe("tiny-cpu").schedule.steps
    run = ["-m", "trainer", "--recipe", "tiny-cpu", "--data", dataset, "--out", str(out), "--set", "log.every_steps=1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([sys.executable, *run], env=env, start_new_session=True)
    try:
        while first.poll() is None and _last(out) < steps // 2 + 3:
            time.sleep(0.2)
    finally:  # after so many steps, or because somebody pressed Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    if first.wait() != -signal.SIGKILL:
        raise typer.Exit(first.returncode or Unfinished.exit_code)  # it said why itself
    say(f"\nkilled after step {_last(out)}; going on with {ranks} ranks\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    second = subprocess.run([*torchrun, *run], env=env, check=False)
    if second.returncode:
        raise typer.Exit(second.returncode)
    draw(out, out / "loss.png")
    losses = [line["loss"] for line in _lines(out) if line.get("loss") is not None]
    say(f"\nloss {losses[0]:.2f} -> {losses[-1]:.2f} in {steps} steps; the curve of both parts: {out / 'loss.png'}")


def _lines(out: Path) -> list[dict[str, Any]]:
    file = out / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _last(out: Path) -> int:
    return max((line["step"] for line in _lines(out)), default=0)


def draw(out: Path, picture: Path) -> None:
    """The loss over steps, one curve for every part between two resumes."""
    from matplotlib.figure import Figure

    parts: list[list[tuple[int, float]]] = [[]]
    for line in _lines(out):
        if line.get("event") == "resumed":
            parts.append([])
        elif line.get("loss") is not None:
            parts[-1].append((line["step"], line["loss"]))
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, part in enumerate(part for part in parts if part):
        label = "from the start" if number == 0 else f"resumed after step {part[0][0] - 1}"
        axes.plot(*zip(*part, strict=True), marker="." if number else None, linewidth=1 + number, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.legend()
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
