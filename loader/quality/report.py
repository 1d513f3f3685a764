"""The shuffle on trial: `python -m loader.quality` runs the battery on an ideal shuffle, on ours, on the original Bamba
loader's, on a dataset as it is served, or on an order of yours, prints the table and draws the pictures.

    python -m loader.quality --n 1500 --out FOLDER        three shuffles side by side, over 100 keys
    python -m loader.quality DATASET --batch-rows 384     how local its batches are, beside the ideal
    python -m loader.quality --order FILE.npy             one order, or one a row, beside the ideal

Exit code 0 if the shuffle on trial passes, 1 if it does not, 2 if the question is wrong. docs/shuffle.md says what
every statistic means.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bamba_data import terminal
from bamba_data.errors import UserError
from bamba_data.extras import require

from ..order.mixture import Lattice
from ..order.permutation import derive_key
from .battery import MIN_ROWS, Order, sweep
from .battery import examine as examine_order
from .dataset_report import OrderSettings, examine_dataset
from .judge import LEVEL, Verdict, absurd, fisher_yates, judge, legacy, ours

#: The mix of Bamba's first phase (19 sources of Dolma) and its batch, for the picture of the mix.
BAMBA_WEIGHTS = (1456, 1835, 1558, 1851, 450, 1500, 300, 236, 114, 200, 100, 62, 27, 11, 51, 49, 100, 55, 45)
BAMBA_BATCH_ROWS = 384
MIX_STEPS = 2000


def examine(
    dataset: str | None,
    order: Path | None,
    n: int,
    keys: int,
    settings: OrderSettings,
    batches: int,
    world_size: int,
    out: Path | None,
) -> bool:
    """Put a shuffle on trial and print the tables: a dataset's as it is served, an `order` of a file, or ours.

    Args:
        dataset: A path or URL; its order is that of `settings`, of which so many `batches` are looked at.
        order: A file of `read_orders`, instead of a dataset.
        n: Rows of the source that ours is tried on, with as many keys as `keys`.
        world_size: Ranks in the picture of the mix.
        out: The folder for pictures; None draws none.

    Returns:
        Whether it passes for a true shuffle.

    Raises:
        UserError: a dataset and an order, too few rows, or something that cannot be read.
    """
    if out is not None:
        require("matplotlib")
    if n < MIN_ROWS:
        raise UserError(f"--n {n}: the statistics need {MIN_ROWS:,} rows at least")
    console = terminal.console(160)
    if dataset is not None and order is not None:
        raise UserError("a dataset or an --order, not both")
    if dataset is not None:
        examples, lattice = examine_dataset(dataset, settings, batches, console)
        passed = True
    elif order is not None:
        orders = read_orders(order)
        passed, lattice = examine_orders(orders, console), bamba_mix()
        examples = {"ideal": next(fisher_yates(orders.shape[1], 1))[0], order.stem: orders[0]}
    else:
        passed, lattice = compare(n, keys, console), bamba_mix()
        examples = {
            "ideal": next(fisher_yates(n, 1))[0],
            "ours (stateless)": next(ours(n, 1))[0],
            "original Bamba (a = 5)": next(legacy(n, 1))[0],
        }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(examples, lattice, world_size, out)
        console.print(f"pictures in {out}", markup=False)
    return passed


def compare(n: int, keys: int, console: Console) -> bool:
    """Print the three shuffles side by side; whether ours passed."""

    def swept(name: str, orders: Iterator[tuple[Order, Order]]) -> dict[str, NDArray[np.float64]]:
        shown = terminal.console(stderr=True)
        return sweep(track(orders, name, keys, console=shown, transient=True, disable=not shown.is_terminal))

    ideal = swept("ideal", fisher_yates(n, keys))
    verdicts = {
        "ours": judge(swept("ours", ours(n, keys)), ideal),
        "a = 5": judge(swept("a = 5", legacy(n, keys)), ideal),
    }
    itself = judge(ideal, ideal)
    table = Table(title=f"{n:,} rows, {keys} keys", title_justify="left")
    table.add_column("statistic")
    for heading in ("ideal: uniform", "odd", "ours: uniform", "odd", "like ideal", "a = 5: uniform", "odd"):
        table.add_column(heading, justify="right")
    for ideally, mine, old in zip(itself, verdicts["ours"], verdicts["a = 5"], strict=True):
        table.add_row(
            ideally.statistic,
            *(_tail(ideally.uniform), f"{ideally.odd:.0%}"),
            *(_tail(mine.uniform), f"{mine.odd:.0%}", _tail(mine.same)),
            *(_tail(old.uniform), f"{old.odd:.0%}"),
        )
    console.print(table)
    console.print(
        "uniform: how likely the p-values of a true shuffle stray so far from uniform; like ideal: from those of "
        f"Fisher-Yates; red below {LEVEL:g}.\nodd: keys with a p-value within 0.1 % of either end; 0.2 % is due."
    )
    for name, of_shuffle in verdicts.items():
        console.print(f"{name}: {_summary(of_shuffle)}")
    return all(verdict.passed for verdict in verdicts["ours"])


def examine_orders(orders: NDArray[np.int64], console: Console) -> bool:
    """Print what the battery says of each order, and of each with the next; whether none is absurd."""
    following = [*orders[1:], None]
    results = [examine_order(order, after) for order, after in zip(orders, following, strict=True)]
    table = Table(title=f"{orders.shape[1]:,} rows, {len(orders)} epochs", title_justify="left")
    table.add_column("statistic")
    for epoch in range(len(orders)):
        table.add_column(f"epoch {epoch}", justify="right")
    for name in results[0]:
        table.add_row(name, *(_tail(p_values[name]) if name in p_values else "" for p_values in results))
    console.print(table)
    console.print("p-values: near 0 too irregular for a true shuffle, near 1 too regular.")
    failed = sorted({name for p_values in results for name in absurd(p_values)})
    console.print("[red]no true shuffle[/]: " + ", ".join(failed) if failed else "[green]passes for a true shuffle[/]")
    return not failed


def draw(examples: dict[str, Order], lattice: Lattice, world_size: int, out: Path) -> None:
    """Write scatter.png, displacement.png and mix.png."""
    from . import plots

    plots.scatter(examples, out / "scatter.png")
    plots.displacement(examples, out / "displacement.png")
    plots.mix(lattice, lattice.step_rows, world_size, MIX_STEPS, out / "mix.png")


def bamba_mix() -> Lattice:
    return Lattice.create(BAMBA_WEIGHTS, BAMBA_BATCH_ROWS, derive_key("quality"))


def read_orders(path: Path) -> NDArray[np.int64]:
    """Orders from a .npy file of one order [n], or an order an epoch [epochs, n].

    Rows may be any integers, each once an epoch: the k-th smallest stands for place k. No pickles are read.

    Returns:
        int64 [epochs, n], each row a permutation of 0 … n - 1.

    Raises:
        UserError: the file is no such array.
    """
    try:
        with path.open("rb") as file:
            orders = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not an order that can be read ({error})") from error
    if not np.issubdtype(orders.dtype, np.integer) or orders.ndim not in (1, 2):
        raise UserError(f"{path}: {orders.dtype} {list(orders.shape)}, but an order is integers [n] or [epochs, n]")
    return places(np.atleast_2d(orders), str(path))


def places(orders: NDArray[np.integer], name: str = "order") -> NDArray[np.int64]:
    """Each row's integers by rank, 0 … n - 1."""
    if orders.shape[1] < MIN_ROWS:
        raise UserError(f"{name}: {orders.shape[1]:,} rows are too few for the statistics; {MIN_ROWS:,} at least")
    values = np.unique(orders[0])
    if values.size < orders.shape[1] or any(not np.array_equal(np.sort(order), values) for order in orders):
        raise UserError(f"{name}: every epoch must have the same rows, each of them once")
    return np.searchsorted(values, orders).astype(np.int64)


def _tail(p: float) -> str:
    text = f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
    return f"[red]{text}[/]" if p < LEVEL else text


def _summary(verdicts: Sequence[Verdict]) -> str:
    failed = [verdict.statistic for verdict in verdicts if not verdict.passed]
    if not failed:
        return f"[green]passes all {len(verdicts)} statistics[/]"
    return f"[red]fails {len(failed)} of {len(verdicts)}[/]: {', '.join(failed)}"
