"""The table of documents: one row a document of a dataset, read shard by shard, to choose which of them leave.

    source        name of the source
    document_id   as upstream has it
    file, row     path of the input, and line or row of it
    tokens        how many tokens it has
    token_digest  sha256, in hex, of its token ids as they are stored (little-endian); only where it is asked for

Only the columns that are asked for are read, 16 shards at a time.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from bamba_data.errors import CorruptShard
from bamba_data.format.dataset import Dataset
from bamba_data.format.identity import ids_digest
from bamba_data.format.masks import Flags, pack, removed_in
from bamba_data.format.shard import ShardReader, block_digest
from bamba_data.inspect.shard_rows import SLICE_SHARDS, in_order, of_shards

THREADS = 16
DOCUMENTS = pl.Schema(
    {
        "source": pl.String,
        "document_id": pl.String,
        "file": pl.String,
        "row": pl.UInt64,
        "tokens": pl.UInt32,
        "token_digest": pl.String,
    }
)
_STORED = {"document_id": "document_id", "file": "file", "row": "row", "tokens": "token_count"}

#: Of the documents of a block: which leave, bool [documents]. It is called from several threads.
Choose = Callable[[pl.DataFrame], Flags]


@dataclass(frozen=True)
class Chosen:
    """What a choice comes to. `masks` are the rows of the table of masks, old ones and new; `documents` and `tokens`
    are what leaves now."""

    masks: pl.DataFrame
    documents: int
    tokens: int


def choose(dataset: Dataset, columns: Collection[str], leaves: Choose, shards: Collection[int] | None = None) -> Chosen:
    """Ask of every document that is left in a dataset whether it leaves.

    Args:
        dataset: its tables must be of a format with ids_digest: not the first.
        columns: those of DOCUMENTS that `leaves` needs.
        leaves: says it, block by block. It is also given the documents that have left before; what it says of these
            changes nothing.
        shards: look at these alone, by their rows in the table of shards; None at all.

    Raises:
        CorruptShard: a shard is not what was published.
    """
    known = removed_in(dataset.masks, dataset.blocks)
    named = dataset.files.select("source", "file", "path").iter_rows() if "file" in columns else ()
    paths = {(source, file): path for source, file, path in named}
    rows = dataset.shards.with_row_index("shard")
    if shards is not None:
        rows = rows.filter(pl.col("shard").is_in(list(shards)))
    blocks = in_order(dataset.blocks, "shard", "block")

    def of_shard(row: dict[str, Any], blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(_masks_of(dataset, row, blocks, known, paths, set(columns), leaves))

    fresh: list[dict[str, Any]] = []
    with ThreadPoolExecutor(THREADS, "bamba-choose") as pool:
        for part in rows.iter_slices(SLICE_SHARDS):
            first, last = int(part["shard"][0]), int(part["shard"][-1])
            of = of_shards(blocks, first, last).rows_by_key("shard", named=True)
            shards_here = part.to_dicts()
            for masks in pool.map(of_shard, shards_here, [of[row["shard"]] for row in shards_here]):
                fresh += masks
    documents, tokens = (sum(mask.pop(name) for mask in fresh) for name in ("documents_gone", "tokens_gone"))
    new = pl.DataFrame(fresh, schema=dataset.masks.schema)
    kept = dataset.masks.join(new, on=["shard", "block"], how="anti")
    return Chosen(pl.concat([kept, new]).sort("shard", "block"), documents, tokens)


def _masks_of(
    dataset: Dataset,
    shard: dict[str, Any],
    blocks: list[dict[str, Any]],
    known: dict[tuple[int, int], Flags],
    paths: dict[tuple[str, int], str],
    columns: set[str],
    leaves: Choose,
) -> Iterator[dict[str, Any]]:
    """The masks of a shard's blocks that lose documents now."""
    path, number, source = shard["path"], shard["shard"], shard["source"]
    try:
        with dataset.files_store.open(path) as file:
            reader = ShardReader(file, path)
            for block in blocks:
                frame = _documents(reader, shard, block, paths, columns)
                before = known.get((number, block["block"]), np.zeros(len(frame), np.bool_))
                after = before | leaves(frame)
                if (after == before).all():
                    continue
                left = reader.tokens(block["block"], block["digest"].hex(), block["documents"])
                was_left, left = left.left(~before), left.left(~after)
                ids = reader.table(block["block"], ["document_id"])["document_id"].filter(pa.array(~after)).to_pylist()
                yield {
                    "source": source,
                    "shard": number,
                    "block": block["block"],
                    "removed": pack(after),
                    "documents": len(left.counts),
                    "tokens": len(left.ids),
                    "digest": bytes.fromhex(block_digest(left.ids.data.cast("B"), left.counts)),
                    "ids_digest": ids_digest(ids),
                    "documents_gone": len(was_left.counts) - len(left.counts),
                    "tokens_gone": len(was_left.ids) - len(left.ids),
                }
    except FileNotFoundError:
        raise CorruptShard(path, "is missing") from None


def _documents(
    reader: ShardReader,
    shard: dict[str, Any],
    block: dict[str, Any],
    paths: dict[tuple[str, int], str],
    columns: set[str],
) -> pl.DataFrame:
    """The rows of the table of documents that a block has, with these columns."""
    stored = [_STORED[name] for name in columns if name in _STORED] or ["token_count"]
    table = reader.table(block["block"], stored)
    if table.num_rows != block["documents"]:
        fault = f"block {block['block']} has {table.num_rows:,} documents, the manifest says {block['documents']:,}"
        raise CorruptShard(reader.path, fault)
    values: dict[str, Any] = {name: table[_STORED[name]].to_pylist() for name in columns if name in _STORED}
    if "file" in columns:
        values["file"] = [paths.get((shard["source"], shard["first_file"] + file)) for file in values["file"]]
    if "source" in columns:
        values["source"] = [shard["source"]] * table.num_rows
    if "token_digest" in columns:
        ids = reader.tokens(block["block"], block["digest"].hex(), block["documents"]).documents()
        values["token_digest"] = [hashlib.sha256(document.tobytes()).hexdigest() for document in ids]
    wanted = {name: kind for name, kind in DOCUMENTS.items() if name in columns}
    if not wanted:
        return pl.DataFrame({"_": np.zeros(table.num_rows, np.bool_)})
    return pl.DataFrame({name: values[name] for name in wanted}, schema=wanted)
