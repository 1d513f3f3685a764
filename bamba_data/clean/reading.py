"""What all producers of lists share: which shards a task reads, the documents in them, and the list."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bamba_data.derive.restating import refuse_first_format
from bamba_data.errors import CorruptShard, UserError
from bamba_data.format.dataset import Dataset, dataset_of
from bamba_data.format.masks import Flags
from bamba_data.format.shard import ShardReader, Tokens
from bamba_data.storage.store import open_store

BLOCK_ROW_BYTES = 200  # of the table of blocks, 77 as it is stored in memory, while it is read and filtered
LISTED = pl.Schema({"source": pl.String, "file": pl.String, "row": pl.UInt64})


def wanted_sources(dataset: Dataset, sources: Sequence[str]) -> tuple[str, ...]:
    """`sources`, or all of the dataset's by their names.

    Raises:
        UserError: a source is not of the dataset or named twice; the version is of the first format.
    """
    refuse_first_format(dataset)
    names = [source.name for source in dataset.manifest.sources]
    if strangers := sorted(set(sources) - set(names)):
        raise UserError(f"--source names {strangers}; the dataset has {names}")
    if len(set(sources)) != len(sources):
        raise UserError("--source names a source twice")
    return tuple(sources or names)


def shards_of(dataset: Dataset, sources: Sequence[str]) -> pl.DataFrame:
    """The table of shards, those of these sources, with their places there as `shard`."""
    return dataset.shards.with_row_index("shard").filter(pl.col("source").is_in(list(sources)))


def grouped(shards: pl.DataFrame, size: str, limit: int) -> tuple[tuple[int, ...], ...]:
    """Neighbours in groups of at most `limit` in the column `size`; more only where a single shard has more."""
    groups: list[list[int]] = []
    held = limit
    for shard, its in shards.select("shard", size).iter_rows():
        if held + its > limit:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += its
    return tuple(map(tuple, groups))


@functools.lru_cache(maxsize=1)
def opened(url: str, manifest: str) -> Dataset:
    """A version; a worker keeps the last one."""
    return dataset_of(open_store(url), manifest)


class BlockRead(NamedTuple):
    """The documents of a block, in its order.

    Attributes:
        tokens: as they are stored.
        files: places in the table of files of the source, [documents].
        rows: [documents].
        gone: those that were dropped, bool [documents]; None where none was.
    """

    tokens: Tokens
    files: NDArray[Any]
    rows: NDArray[Any]
    gone: Flags | None


def blocks_of(dataset: Dataset, shard: dict[str, Any], removed: dict[tuple[int, int], Flags]) -> Iterator[BlockRead]:
    """The blocks of a shard, one after the other.

    Args:
        dataset: of the second format or later.
        shard: a row of `shards_of`.
        removed: what `masks.removed_in` says.

    Raises:
        CorruptShard: it is missing, or not what was published.
    """
    blocks = dataset.blocks.filter(pl.col("shard") == shard["shard"]).sort("block")
    try:
        with dataset.files_store.open(shard["path"]) as file:
            reader = ShardReader(file, shard["path"])
            for block in blocks.iter_rows(named=True):
                tokens = reader.tokens(block["block"], block["digest"].hex(), block["documents"])
                stands = reader.table(block["block"], ["file", "row"])
                files = stands["file"].to_numpy() + np.uint32(shard["first_file"])
                yield BlockRead(tokens, files, stands["row"].to_numpy(), removed.get((shard["shard"], block["block"])))
    except FileNotFoundError:
        raise CorruptShard(shard["path"], "is missing") from None


def named(stands: pl.DataFrame, dataset: Dataset, sources: Sequence[str]) -> pl.DataFrame:
    """The entries of a list, for `rank` of the source in `sources`, `file` in the table of files, and `row`."""
    names = pl.DataFrame({"rank": pl.Series(range(len(sources)), dtype=pl.UInt32), "source": list(sources)})
    files = dataset.files.select("source", "file", pl.col("path"))
    joined = stands.join(names, on="rank", how="left", maintain_order="left").join(
        files, on=["source", "file"], how="left", maintain_order="left"
    )
    return joined.select("source", pl.col("path").alias("file"), "row").cast(LISTED)


def write_pieces(pieces: Iterable[pl.DataFrame], sources: Sequence[str], out: Path) -> dict[str, int]:
    """Put entries together, one piece after the other, as one parquet file; how many documents each source has there.

    Nothing is written where there are none: a list of nothing is none.
    """
    counts = dict.fromkeys(sources, 0)
    part = out.with_name(f"{out.name}.part")
    writer: pq.ParquetWriter | None = None
    try:
        for piece in pieces:
            if not len(piece):
                continue
            for name, documents in piece.group_by("source").len().iter_rows():
                counts[name] += documents
            table = piece.to_arrow()
            writer = writer or pq.ParquetWriter(part, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        part.replace(out)
    return counts
