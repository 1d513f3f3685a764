"""The losses that a run wrote into its metrics.jsonl, and a picture of them with one curve for each start."""

import json
from pathlib import Path

Part = list[tuple[int, float]]


def loss_parts(run: Path) -> list[Part]:
    """Step and loss (nats a token) of every line, one part for each start of the run; steps done again stand twice.

    A line without its end is left out: a process that was killed may leave one.
    """
    file = run / "metrics.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    parts: list[Part] = [[]]
    for line in (json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")):
        if line.get("event") == "resumed":
            parts.append([])
        elif line.get("loss") is not None:
            parts[-1].append((line["step"], line["loss"]))
    return [part for part in parts if part]


def draw_losses(parts: list[Part], picture: Path) -> None:
    """The loss over the step, as a picture of the format that the file's name says (png, svg, pdf)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, part in enumerate(parts):
        label = "from the start" if number == 0 else f"resumed after step {part[0][0] - 1}"
        axes.plot(*zip(*part, strict=True), marker="." if number else None, linewidth=1 + number, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.legend()
    figure.savefig(picture, dpi=120)
