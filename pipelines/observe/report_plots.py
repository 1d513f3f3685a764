"""The plots of a report, as PNG: tokens by source, and how far and how fast a run went."""

import io
import itertools
from collections.abc import Sequence

from bamba_data.inspect.units import axis_unit

from .runs import Point, Status

MARKED_POINTS = 12  # so few are marked: the line between two of them is a guess

# Figure without pyplot: pyplot keeps every figure in a global list, and chooses a window system when it is imported.


def sources(tokens_by_source: Sequence[tuple[str, int]]) -> bytes:
    """Bars, the largest first."""
    from matplotlib.figure import Figure

    ordered = sorted(tokens_by_source, key=lambda pair: pair[1])
    figure = Figure(figsize=(8, 0.9 + 0.28 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    unit, word = axis_unit(max((tokens for _, tokens in ordered), default=0))
    axes.barh([name for name, _ in ordered], [tokens / unit for _, tokens in ordered], color="#4477aa")
    axes.set_xlabel(f"{word}tokens")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def progress(attempts: Sequence[Status]) -> bytes:
    """How much of the input was read, and how fast, of every attempt from its own beginning.

    One of them has two points at least.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    shown = [(f"attempt {n}", attempt) for n, attempt in enumerate(attempts, start=1) if len(attempt.curve) > 1]
    curves = [attempt.curve for _, attempt in shown]
    time_unit, time_word = _time_unit(max(point.seconds for curve in curves for point in curve))
    rates = [[_tokens_per_second(*pair) for pair in itertools.pairwise(curve)] for curve in curves]
    unit, word = axis_unit(max(itertools.chain.from_iterable(rates)))
    for (name, attempt), curve, speeds in zip(shown, curves, rates, strict=True):
        times = [point.seconds / time_unit for point in curve]
        total = max(1, attempt.input_bytes_total)
        marker = "o" if len(curve) <= MARKED_POINTS else None
        above.plot(times, [100 * point.input_bytes / total for point in curve], label=name, marker=marker)
        # A rate is that of the whole time between two points.
        below.stairs([speed / unit for speed in speeds], times, color=above.lines[-1].get_color())
    above.set_ylabel("% of the input read")
    above.set_ylim(0, 104)
    below.set_ylabel(f"{word}tokens/s")
    below.set_ylim(bottom=0)
    below.set_xlim(left=0)
    below.set_xlabel(f"{time_word} since the attempt began")
    if len(shown) > 1:
        above.legend(frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _time_unit(longest_seconds: float) -> tuple[float, str]:
    return (1, "seconds") if longest_seconds < 120 else (60, "minutes") if longest_seconds < 7200 else (3600, "hours")


def _tokens_per_second(before: Point, after: Point) -> float:
    """An attempt that takes a unit back (it is tried again) would have a rate below zero."""
    return max(0, after.tokens - before.tokens) / max(1e-9, after.seconds - before.seconds)


def _png(figure: object) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)  # type: ignore[attr-defined]
    return out.getvalue()
