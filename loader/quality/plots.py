"""The pictures of the battery: shuffles as people know them, point by point, and the mix as it is served.

Drawn on matplotlib's canvas for files, without its global state.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..order.mixture import Lattice
from ..order.rank_split import ranks_of_rows
from .battery import Order

MOST_POINTS = 5000
BINS = 50
INCHES = 4.2
DPI = 130


def scatter(orders: Mapping[str, Order], path: Path) -> None:
    """A column an order: place in the order against place in the source, and below it each row's place in the source
    against that of the row after it. Of long orders the first 5,000 rows.

    The eye takes the upper picture of any order that visits everything for random; the lower one shows what is not.
    """
    figure, panels = _panels(len(orders), down=2)
    for (name, order), upper, lower in zip(orders.items(), panels, panels[len(orders) :], strict=False):
        shown = order[:MOST_POINTS]
        for panel, x, y in ((upper, np.arange(shown.size), shown), (lower, shown[:-1], shown[1:])):
            panel.scatter(x, y, s=2, linewidths=0)
            panel.margins(0.01)
        upper.set(title=f"{name}, n = {order.size:,}", xlabel="place in the order", ylabel="place in the source")
        lower.set(xlabel="place of a row in the source", ylabel="place of the next row")
    _save(figure, path)


def displacement(orders: Mapping[str, Order], path: Path) -> None:
    """How far rows are from home, as a share of n, beside the density 2 (1 - x) of a true shuffle."""
    figure, (panel,) = _panels(1, wide=1.5)
    for name, order in orders.items():
        moved = np.abs(order - np.arange(order.size)) / order.size
        panel.hist(
            moved, bins=BINS, range=(0, 1), density=True, histtype="step", label=f"{name}, mean {moved.mean():.4f}"
        )
    panel.plot([0, 1], [2, 0], "k:", label="ideal, mean 1/3")
    panel.set(title="distance from home", xlabel="|place in the order - place in the source| / n", ylabel="density")
    panel.legend()
    _save(figure, path)


def mix(lattice: Lattice, batch_rows: int, world_size: int, steps: int, path: Path) -> None:
    """The most rows that a source is off its share at the end of each step: overall, on the ranks, and by lot."""
    firsts = range(lattice.first_row, lattice.first_row + steps * batch_rows, batch_rows)
    sources = lattice.sources(np.arange(firsts.start, firsts.start + steps * batch_rows))
    ranks = np.concatenate([ranks_of_rows(first, batch_rows, world_size, lattice) for first in firsts])
    batch = np.arange(sources.size) // batch_rows
    shares = np.array(lattice.weights) / sum(lattice.weights)
    figure, (even, by_lot) = _panels(2, wide=1.5)
    drawn = np.random.default_rng(0).choice(shares.size, sources.size, p=shares)
    for panel, served, name in ((even, sources, "served"), (by_lot, drawn, "drawn by lot")):
        for rank in range(world_size):
            own = ranks == rank
            off = strays(served[own], batch[own], shares, steps)
            panel.plot(off, color="tab:blue", alpha=min(0.5, 4 / world_size), linewidth=0.7)
        panel.plot([], color="tab:blue", label=f"each of {world_size} ranks")
        panel.plot(strays(served, batch, shares, steps), color="black", linewidth=1, label="overall")
        panel.set(title=f"{name}: the source that is off most", xlabel="step", ylabel="rows")
        panel.set_ylim(bottom=0)
        panel.legend()
    _save(figure, path)


def strays(
    sources: NDArray[np.integer], steps: NDArray[np.integer], shares: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """By step, the most rows that any source is off its share once the rows of the step are served."""
    had = np.zeros((count, shares.size), np.int64)
    np.add.at(had, (steps, sources), 1)
    had = np.cumsum(had, axis=0)
    worst: NDArray[np.float64] = np.abs(had - had.sum(axis=1)[:, None] * shares).max(axis=1)
    return worst


def _panels(across: int, down: int = 1, wide: float = 1.0) -> tuple[Figure, list[Axes]]:
    """Equal panels, row by row."""
    figure = Figure(figsize=(INCHES * across * wide, INCHES * down), layout="constrained")
    return figure, list(figure.subplots(down, across, squeeze=False).flat)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
