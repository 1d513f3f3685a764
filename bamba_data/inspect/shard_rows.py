"""The shards of a dataset with what its tables say of each, a slice of them in memory at a time.

A million shards have millions of rows in the other tables; as Python's objects they would take gigabytes.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import polars as pl

from bamba_data.format.dataset import Dataset
from bamba_data.format.holdout_candidates import Candidate

SLICE_SHARDS = 4096


class ShardRows(NamedTuple):
    """One shard: its row in the table of shards, and the rows that other tables have of it, in order."""

    row: dict[str, Any]
    blocks: list[dict[str, Any]]
    candidates: list[Candidate]
    masks: pl.DataFrame | None


def slices(dataset: Dataset, only: Collection[str] | None = None) -> Iterator[list[ShardRows]]:
    """All shards, or those of the paths `only`, in the order of the table, SLICE_SHARDS at most at once."""
    shards = dataset.shards.with_row_index("number")
    if only is not None:
        shards = shards.filter(pl.col("path").is_in(list(only)))
    blocks = in_order(dataset.blocks, "shard", "block")
    candidates = in_order(dataset.candidates, "shard", "block", "document")
    masks = in_order(dataset.masks, "shard", "block")
    for part in shards.iter_slices(SLICE_SHARDS):
        first, last = int(part["number"][0]), int(part["number"][-1])
        blocks_of = of_shards(blocks, first, last).rows_by_key("shard", named=True)
        columns = ["shard", *Candidate._fields]
        candidates_of = of_shards(candidates, first, last).select(columns).rows_by_key("shard")
        masks_of = of_shards(masks, first, last).partition_by("shard", as_dict=True) if len(masks) else {}
        yield [
            ShardRows(
                row,
                blocks_of.get(number, []),
                [Candidate(*candidate) for candidate in candidates_of.get(number, [])],
                masks_of.get((number,)),
            )
            for row in part.iter_rows(named=True)
            if (number := row.pop("number")) is not None
        ]


def in_order(table: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """A table sorted by these columns, of whole numbers; a damaged one need not be."""
    return table if is_in_order(table, *columns) else table.sort(columns)


def is_in_order(table: pl.DataFrame, *columns: str) -> bool:
    """Whether the rows are sorted by these columns, and no two have the same values of them."""
    after = pl.lit(False)
    for column in reversed(columns):  # as tuples compare
        here, before = pl.col(column), pl.col(column).shift(1)
        after = (here > before) | ((here == before) & after)
    return bool(table.lazy().select(after.fill_null(True).all()).collect(engine="streaming").item())


def of_shards(table: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    """The rows of shards `first` to `last` of a table that is sorted by shard."""
    begin, end = int(table["shard"].search_sorted(first, "left")), int(table["shard"].search_sorted(last, "right"))
    return table[begin:end]
