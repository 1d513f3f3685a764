"""Polars frames as tables of a manifest."""

import polars as pl

from bamba_data.format.manifest_entries import TableEntry
from bamba_data.format.tables import FLUSH_ROWS, TableWriter
from bamba_data.storage.store import Store


def save_table(name: str, frame: pl.DataFrame, store: Store) -> TableEntry:
    """Write a table (see format/tables.py for its columns) into a store; what a manifest says of it."""
    with TableWriter(name) as writer:
        for piece in frame.iter_slices(FLUSH_ROWS):
            writer.add(piece.to_dicts())
        return writer.save(store)
