"""How a dataset is served: for every source the locality of its batches beside the ideal, and what the battery says of
the order of an epoch's rows. Reads the manifest's tables and no tokens.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset, open_dataset

from ..global_order import Order
from ..order.mixture import Lattice
from ..order.plan import MixPlan
from ..order.plan_entries import WINDOW_ROWS
from ..sources.shards import ShardBlocks, open_blocks
from . import battery
from .judge import absurd, fisher_yates
from .served_order import Longs, files_of, row_order, rows_by_block, served

MOST_ROWS = 1 << 23  # of an epoch, that the battery is given


@dataclass(frozen=True)
class OrderSettings:
    """The order that is looked at. `weights` are NAME=WEIGHT; without any, sources have their tokens as weights."""

    weights: tuple[str, ...]
    row_tokens: int
    batch_rows: int
    window_rows: int | None  # None: as wide as the plan's default
    seed: int


def examine_dataset(
    url: str, settings: OrderSettings, batches: int, console: Console
) -> tuple[dict[str, battery.Order], Lattice]:
    """Print all of it, and give the orders and the mix to draw.

    Raises:
        UserError: a weight is not NAME=WEIGHT of the dataset's sources, or there is no such dataset.
    """
    dataset = open_dataset(url)
    with tempfile.TemporaryDirectory(prefix="bamba-quality-") as cache:
        blocks = open_blocks(dataset, Path(cache))
        order = Order(_plan(blocks, settings), blocks)
        files = _files(dataset, blocks)
        console.print(_locality(order, settings, batches, files))
        orders = {name: row_order(order.source(name).stream) for name in order.plan.sources}
        lattice = order.plan.stretches[0].lattice
    console.print(
        "pairs: of rows of a batch that begin in one block; files: work units, an upstream file or a few small ones.\n"
        "ideal: the mean over all orders of an epoch's rows. Wider windows come nearer to it, and keep more on disk."
    )
    for name, rows in orders.items():
        console.print(f"{name}: {_verdict(rows)}")
    largest = max(orders, key=lambda name: orders[name].size)
    return {"ideal": next(fisher_yates(orders[largest].size, 1))[0], largest: orders[largest]}, lattice


def _plan(blocks: Mapping[str, ShardBlocks], settings: OrderSettings) -> MixPlan:
    weights: dict[str, int | str] = {name: int(source.tokens.sum()) for name, source in blocks.items()}
    if settings.weights:
        weights = dict.fromkeys(blocks, 0)
        for text in settings.weights:
            name, equals, weight = text.partition("=")
            if not equals or name not in blocks:
                raise UserError(f"--weights {text}: NAME=WEIGHT, and the dataset has {sorted(blocks)}")
            weights[name] = weight
    return MixPlan.create(
        weights,
        {name: source.identity for name, source in blocks.items() if weights[name] not in (0, "0")},
        settings.batch_rows,
        seed=settings.seed,
        row_tokens=settings.row_tokens,
        before=[],
        after=[],
        window_rows=settings.window_rows or WINDOW_ROWS,
        holdout_ppm=0,
    )


def _files(dataset: Dataset, blocks: Mapping[str, ShardBlocks]) -> dict[str, Longs]:
    units = dict(enumerate(dataset.shards["unit"].to_list()))
    return {name: files_of(source.arrays["shard"], units) for name, source in blocks.items()}


def _locality(order: Order, settings: OrderSettings, batches: int, files: Mapping[str, Longs]) -> Table:
    table = Table(
        title=f"{batches:,} batches of {settings.batch_rows:,} rows of {settings.row_tokens:,} tokens, windows of "
        f"{order.plan.header.window_rows:,} rows",
        title_justify="left",
    )
    table.add_column("source")
    for heading in ("rows of an epoch", "of a batch", "pairs: most", "mean", "ideal", "blocks: mean", "ideal"):
        table.add_column(heading, justify="right")
    for heading in ("files: mean", "ideal"):
        table.add_column(heading, justify="right")
    for name, rows_served in served(order, batches).items():
        rows = rows_by_block(order.source(name).stream)
        by_block, by_file = rows_served.locality(rows), rows_served.locality_by(files[name], rows)
        table.add_row(
            *(name, f"{rows.sum():,}", f"{by_block.rows:.1f}"),
            *(f"{by_block.most_pairs:,}", f"{by_block.pairs:.2f}", f"{by_block.ideal_pairs:.2f}"),
            *(f"{by_block.distinct:.1f}", f"{by_block.ideal_distinct:.1f}"),
            *(f"{by_file.distinct:.1f}", f"{by_file.ideal_distinct:.1f}"),
        )
    return table


def _verdict(rows: battery.Order) -> str:
    if not battery.MIN_ROWS <= rows.size <= MOST_ROWS:
        return f"{rows.size:,} rows an epoch: the battery takes {battery.MIN_ROWS:,} to {MOST_ROWS:,}"
    failed = absurd(battery.examine(rows))
    if not failed:
        return "its rows pass for a true shuffle"
    return "its rows are shuffled within windows, as these statistics see: " + ", ".join(failed)
