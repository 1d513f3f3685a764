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
    blocks = dataset.blocks.sort("shard", "block")  # a damaged table need not be in order
    candidates = dataset.candidates.sort("shard", "block", "document")
    masks = dataset.masks.sort("shard", "block")
    for part in shards.iter_slices(SLICE_SHARDS):
        first, last = int(part["number"][0]), int(part["number"][-1])
        blocks_of = _of(blocks, first, last).rows_by_key("shard", named=True)
        columns = ["shard", *Candidate._fields]
        candidates_of = _of(candidates, first, last).select(columns).rows_by_key("shard")
        masks_of = _of(masks, first, last).partition_by("shard", as_dict=True) if len(masks) else {}
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


def _of(table: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    """The rows of shards `first` to `last` of a table that is sorted by shard."""
    begin, end = int(table["shard"].search_sorted(first, "left")), int(table["shard"].search_sorted(last, "right"))
    return table[begin:end]
