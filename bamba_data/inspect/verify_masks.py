"""Do the masks of a derived version fit its shards? What is wrong with each, as text; nothing for a plain version."""

import io
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from bamba_data.errors import CorruptShard
from bamba_data.format.dataset import Dataset
from bamba_data.format.identity import ids_digest
from bamba_data.format.masks import unpack
from bamba_data.format.shard import ShardReader, block_digest
from bamba_data.storage.store import Store


def masks_fit(dataset: Dataset) -> Iterator[str]:
    """Each mask is of a block, of so many documents, and leaves as many as it says: from the tables alone."""
    masks = dataset.masks
    places = masks.select("shard", "block")
    if not places.equals(places.unique().sort("shard", "block")):
        yield "its rows are not in the order of the shards and blocks"
    named = dataset.blocks.join(places, on=["shard", "block"], how="semi")  # few of very many
    joined = masks.join(named, on=["source", "shard", "block"], how="left", suffix="_stored")
    for row in joined.select("shard", "block", "removed", "documents", "documents_stored").iter_rows(named=True):
        try:
            left = int((~unpack(row["removed"], row["documents_stored"] or 0)).sum())
        except ValueError:
            left = -1
        if left != row["documents"]:
            yield f"that of block {row['block']} of shard {row['shard']} is none of its documents"


def what_is_left(store: Store, path: str, masks: pl.DataFrame) -> Iterator[str]:
    """What the masks of one shard leave is what they say: the shard is read. `masks` are those of it."""
    try:
        reader = ShardReader(io.BytesIO(store.read(path)), path)
        for mask in masks.iter_rows(named=True):
            left = ~unpack(mask["removed"], reader.documents(mask["block"]))
            ids = reader.table(mask["block"], ["document_id"])["document_id"].filter(pa.array(left)).to_pylist()
            tokens = reader.tokens(mask["block"]).left(left)
            counted = len(tokens.ids), block_digest(tokens.ids.data.cast("B"), tokens.counts), ids_digest(ids)
            if counted != (mask["tokens"], mask["digest"].hex(), mask["ids_digest"]):
                yield f"block {mask['block']}: what is left of it is not what the table of masks says"
    except CorruptShard as error:
        yield error.detail
