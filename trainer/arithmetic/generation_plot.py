"""A picture of what memory allows two models to generate, beside each other: the ratio over the tokens of an answer.

What was measured (`python -m benchmarks.decode --curve --out FILE`) stands in it as points, with the machine; what was
not is only the curve of arithmetic, and the title says so.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from bamba_data.errors import UserError, one_line

from ..pictures import refuse_picture
from .report import K, Question
from .throughput import generation

#: What Bamba's authors measured beside transformers, and what they expected of engines that know hybrids.
CLAIMED, EXPECTED = (2.0, 2.5), 5.0
KINDS = ("hybrid", "attention only")


@dataclass(frozen=True, slots=True)
class Measured:
    """`ratios` by tokens of an answer, where both models were measured."""

    device: str
    in_tokens: int
    ratios: dict[int, float]


def measured_in(file: Path) -> Measured:
    """The lines of a measured curve. Raises UserError where it is none, or nothing in it has both models."""
    try:
        head, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        speeds = {(one["model"], one["out_tokens"]): float(one["tokens_per_second"]) for one in lines}
        device, (in_tokens,) = str(head["device"]), {int(one["in_tokens"]) for one in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--measured {file}: no curve of python -m benchmarks.decode --curve --out FILE ({one_line(error)})"
        ) from None
    both = sorted({out for _, out in speeds if all(speeds.get((kind, out)) for kind in KINDS)})
    if not both:
        raise UserError(f"--measured {file}: at no length both models were measured")
    return Measured(device, in_tokens, {out: speeds[KINDS[0], out] / speeds[KINDS[1], out] for out in both})


def draw_generation(asked: Question, measured: Measured | None, picture: Path) -> None:
    """Write the picture, in the format that the file's name says.

    Raises UserError where the measured prompts have another length than the question's.
    """
    refuse_picture(picture)
    if measured is not None and measured.in_tokens != asked.in_tokens:
        raise UserError(f"--in-tokens {asked.in_tokens}, and what was measured begins with {measured.in_tokens}")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    outs = [round(2 * K * 2 ** (power / 4)) for power in range(21)]  # 2K to 64K
    points = []
    for out in outs:
        ours, theirs = (
            generation(cost, asked.gpu, asked.in_tokens, out).tokens_per_second for cost in (asked.ours, asked.theirs)
        )
        if ours and theirs:
            points.append((out, ours / theirs))
    axes.plot(*zip(*points, strict=True) if points else ([], []), label=f"by bytes, {asked.gpu.name}")
    axes.axhspan(*CLAIMED, color="grey", alpha=0.25, label="2 to 2.5, as published")
    axes.axhline(EXPECTED, color="grey", linewidth=0.8, linestyle="--", label="5, as expected there")
    if measured is not None:
        axes.plot(*zip(*measured.ratios.items(), strict=True), "k.", label=f"measured, {measured.device}")
    axes.set_xscale("log", base=2)
    marks = [2 * K, 4 * K, 8 * K, 16 * K, 32 * K, 64 * K]
    axes.set_xticks(marks, [f"{mark // K}K" for mark in marks])
    axes.set_xlabel(f"tokens of an answer, after {asked.in_tokens:,} (K = 1,024)")
    axes.set_ylabel("times as many tokens a second, memory full")
    nothing = "" if measured is not None else "; nothing measured"
    axes.set_title(f"{asked.name} beside {asked.beside}{nothing}", fontsize=10)
    axes.legend()
    figure.savefig(picture, dpi=120)
