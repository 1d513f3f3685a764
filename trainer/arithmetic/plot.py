"""A picture of the ratio of two models' decoding over the context, one curve a batch, and where 2.5 and 5 times lie."""

from pathlib import Path

from ..pictures import refuse_picture
from .model_parts import ModelCost
from .throughput import context_of_ratio, speed_ratio

MARKED_RATIOS = (2.5, 5.0)


def draw_ratios(ours: ModelCost, theirs: ModelCost, names: tuple[str, str], batches: list[int], picture: Path) -> None:
    """Write the picture, in the format that the file's name says."""
    refuse_picture(picture)
    from matplotlib.figure import Figure

    contexts = [2 ** (power / 4) for power in range(40, 81)]  # 1K to 1M
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for batch in batches:
        axes.plot(contexts, [speed_ratio(ours, theirs, batch, context) for context in contexts], label=f"batch {batch}")
    for ratio in MARKED_RATIOS:
        axes.axhline(ratio, color="grey", linewidth=0.8, linestyle="--")
        crossings = [context_of_ratio(ours, theirs, batch, ratio) for batch in batches]
        seen = [context for context in crossings if context and contexts[0] <= context <= contexts[-1]]
        axes.plot(seen, [ratio] * len(seen), "k.", markersize=5)
        for context in seen:
            axes.annotate(f"{context / 1024:.0f}K", (context, ratio), (2, -10), textcoords="offset points", fontsize=7)
    axes.set_xscale("log", base=2)
    marks = [2**power for power in range(10, 21, 2)]
    axes.set_xticks(marks, [f"{mark // 1024:,}K" for mark in marks])
    axes.set_xlabel("context, tokens (K = 1,024)")
    axes.set_ylabel("times as fast in decoding, by bytes")
    axes.set_title(f"{names[0]} beside {names[1]}", fontsize=10)
    axes.legend()
    figure.savefig(picture, dpi=120)
