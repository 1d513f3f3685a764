"""Polars frames as tables of a manifest."""

from collections.abc import Collection

import polars as pl

from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest_entries import TableEntry
from bamba_data.format.tables import FLUSH_ROWS, TableWriter
from bamba_data.storage.store import Store


def files_of(dataset: Dataset, rows: pl.Expr | None = None) -> set[str]:
    """The paths of a dataset's shards and dead letters; of the rows of their tables for which `rows` is true."""
    frames = (dataset.shards, dataset.dead_letters)
    return {path for frame in frames for path in (frame if rows is None else frame.filter(rows))["path"]}


def save_elsewhere(frame: pl.DataFrame, named: Collection[str], store: Store) -> TableEntry | None:
    """Write which of the files that a version names lie in another store than its own; None if none does."""
    frame = frame.filter((pl.col("store") != store.url) & pl.col("path").is_in(list(named)))
    return save_table("elsewhere", frame, store) if len(frame) else None


def save_table(name: str, frame: pl.DataFrame, store: Store) -> TableEntry:
    """Write a table (see format/tables.py for its columns) into a store; what a manifest says of it."""
    with TableWriter(name) as writer:
        for piece in frame.iter_slices(FLUSH_ROWS):
            writer.add(piece.to_dicts())
        return writer.save(store)
