"""Masks: which documents of a block are no longer part of a dataset, though they lie in its shards.

A shard is never changed, so what leaves a dataset is masked by its manifest: the table of masks has a row for every
block that lost documents,

    removed       one bit a document of the block, in the order stored, lowest bit first: 1 is gone
    documents     how many are left, and tokens their tokens
    digest        of the tokens that are left, as a block of these alone would have (shard.block_digest)
    ids_digest    of their document ids, likewise

`as_read` makes of the tables of blocks and candidates what a reader sees: as if the documents had never been there.
The identity of a dataset is of that, so it does not matter whether documents are masked or their shards written anew.
A block of which nothing is left is none. Tables are Polars frames.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Flags = NDArray[np.bool_]
#: The reason under which an account counts what was dropped after the build: read = kept + dropped + dead-lettered.
REMOVED = "removed"


class AsRead(NamedTuple):
    """The tables of blocks and candidates without what is masked: counts, digests and places are of what is left."""

    blocks: "pl.DataFrame"
    candidates: "pl.DataFrame"


def pack(removed: Flags) -> bytes:
    """The mask of a block, bool [documents] with True for those that are gone, as its bits."""
    return np.packbits(removed, bitorder="little").tobytes()


def unpack(bits: bytes | NDArray[np.uint8], documents: int) -> Flags:
    """The inverse of `pack`, bool [documents].

    Raises:
        ValueError: these are not the bits of so many documents.
    """
    data = np.frombuffer(bits, np.uint8)
    flags = np.unpackbits(data, bitorder="little")
    if len(data) != -(-documents // 8) or flags[documents:].any():
        raise ValueError(f"a mask of {len(data):,} bytes is none of {documents:,} documents")
    return flags[:documents].astype(np.bool_)


def as_read(blocks: "pl.DataFrame", candidates: "pl.DataFrame", masks: "pl.DataFrame") -> AsRead:
    """The tables as a reader sees them; those of a plain dataset are returned as they are."""
    import polars as pl

    if not len(masks):
        return AsRead(blocks, candidates)
    changed = ["documents", "tokens", "digest", "ids_digest"]
    what_is_left = masks.select("shard", "block", *changed)
    left = blocks.join(what_is_left, on=["shard", "block"], how="left", suffix="_left", maintain_order="left")
    left = left.with_columns(
        pl.coalesce(f"{name}_left", name).cast(blocks.schema[name]).alias(name) for name in changed
    )
    return AsRead(left.filter(pl.col("documents") > 0).select(blocks.columns), _candidates(candidates, masks, blocks))


def _candidates(candidates: "pl.DataFrame", masks: "pl.DataFrame", blocks: "pl.DataFrame") -> "pl.DataFrame":
    """Without those that are gone, each at its place among the documents that are left."""
    import polars as pl

    masked = candidates.select("shard", "block").join(masks, on=["shard", "block"], how="semi").unique()
    if not len(masked):
        return candidates
    stored = masks.join(masked, on=["shard", "block"], how="semi").join(
        blocks.select("shard", "block", pl.col("documents").alias("stored")), on=["shard", "block"]
    )
    before: dict[tuple[int, int], Any] = {}
    for row in stored.select("shard", "block", "removed", "stored").iter_rows(named=True):
        before[row["shard"], row["block"]] = unpack(row["removed"], row["stored"])
    place = candidates["document"].to_numpy().astype(np.int64)
    is_left = np.ones(len(place), np.bool_)
    for number, key in enumerate(candidates.select("shard", "block").iter_rows()):
        if (removed := before.get(key)) is not None:
            is_left[number] = not removed[place[number]]
            place[number] -= int(removed[: place[number]].sum())
    moved = candidates.with_columns(pl.Series("document", place).cast(candidates.schema["document"]))
    return moved.filter(pl.Series(is_left))


def removed_in(masks: "pl.DataFrame", blocks: "pl.DataFrame") -> dict[tuple[int, int], Flags]:
    """The mask of every block that has one, bool [documents], by shard (row of its table) and block."""
    stored = blocks.select("shard", "block", "documents")
    joined = masks.select("shard", "block", "removed").join(stored, on=["shard", "block"], how="left")
    return {(shard, block): unpack(bits, documents) for shard, block, bits, documents in joined.iter_rows()}
