"""The blocks of a published source: what is in each is known at once (shard_index.py), its tokens verified when read.

Documents that were dropped (bamba_data.format.masks) are not there: counts, digests and places are of what is left.
A read fetches the bytes of one row group and nothing else of its shard; the footer, which says how to decode them, is
fetched once a shard. What does not have its digest is read again, then it is a CorruptShard.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bamba_data.errors import CorruptShard
from bamba_data.format.block_reading import BlockPlace, FilePiece, ShardFooter, block_tokens, read_footer
from bamba_data.format.dataset import Dataset, dataset_of, open_dataset
from bamba_data.format.masks import unpack
from bamba_data.format.shard import ShardReader, Tokens
from bamba_data.format.version_marks import ALSO_WITHDRAWN
from bamba_data.storage.store import open_store

from .base import Indexed
from .shard_index import content_of, open_index

FOOTERS = 64  # parsed ones in memory
READS = 3  # of what does not have its digest: bits may flip on the way, too

T = TypeVar("T")


@dataclass(frozen=True)
class ShardBlocks(Indexed):
    """A source of a published dataset. Implements `Blocks`, and `counts` for packings.

    It travels to other processes as an address (`__reduce__`): they map the same index.
    """

    dataset: Dataset
    name: str
    arrays: Mapping[str, NDArray[Any]]
    cache: Path  # where they are mapped from
    content: str  # see bamba_data.format.identity
    lists_all: bool = False  # every document is a candidate (every_document.py)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (*address_of(self.dataset), self.name, self.cache, self.lists_all)

    @property
    def identity(self) -> str:
        return content_name(self.content, self.dataset)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dataset.manifest.tokenizer.token_dtype)

    def place(self, block: int) -> tuple[int, int]:
        """(row of the table of shards, row group in that shard)."""
        return int(self.arrays["shard"][block]), int(self.arrays["block"][block])

    def read(self, block: int) -> Tokens:
        return _again(lambda: self._read(block))

    def _read(self, block: int) -> Tokens:
        number, row_group = self.place(block)
        shard = _shard(self.dataset, number)
        place = BlockPlace(
            row_group,
            int(self.arrays["offset"][block]),
            int(self.arrays["size_bytes"][block]),
            int(self.documents[block]),
            int(self.tokens[block]),
            self.digest(block).hex(),
        )
        return block_tokens(self.dataset.files_store, shard, place, self.dtype, self._is_left(block))

    def counts(self, block: int) -> NDArray[np.uint32]:
        """Tokens of each document, uint32 [documents], from their column alone.

        A hundredth of the bytes. Page checksums vouch for it, not the block's digest: what does not agree with the
        block when that is read is an error then.
        """
        counts: NDArray[np.uint32] = self._column(block, "token_count").to_numpy()
        return counts

    def document_ids(self, block: int) -> list[str]:
        """The id of each document, from their column alone: vouched for as `counts` are."""
        ids: list[str] = _again(lambda: self._column(block, "document_id").to_pylist())
        return ids

    def _column(self, block: int, name: str) -> pa.ChunkedArray:
        """A column of the documents of a block that are part of the dataset."""
        number, row_group = self.place(block)
        shard = _shard(self.dataset, number)
        group = shard.metadata.row_group(row_group)
        (column,) = (chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == name)
        start, size = column.data_page_offset, column.total_compressed_size
        if column.dictionary_page_offset is not None:
            start = min(start, column.dictionary_page_offset)
        body = self.dataset.files_store.read_range(shard.path, start, start + size)
        reader = ShardReader(FilePiece(start, body), shard.path, shard.metadata)
        values = reader.table(row_group, [name]).column(name)
        is_left = self._is_left(block)
        if is_left is None:
            return values
        if len(values) != len(is_left):
            raise CorruptShard(shard.path, f"block {row_group}: its documents are not those of the manifest's mask")
        return values.filter(pa.array(is_left))

    def shard_row(self, block: int, document: int) -> tuple[str, int]:
        """The path of the shard and the row in it, from 0, that a document of a block lies at."""
        import polars as pl

        number, row_group = self.place(block)
        is_before = (pl.col("shard") == number) & (pl.col("block") < row_group)
        stored_before = int(self.dataset.blocks.filter(is_before)["documents"].cast(pl.UInt64).sum())
        is_left = self._is_left(block)
        place = document if is_left is None else int(np.flatnonzero(is_left)[document])
        return str(self.dataset.shards["path"][number]), stored_before + place

    def _is_left(self, block: int) -> NDArray[np.bool_] | None:
        """Which of the documents that a block has as it is stored are part of the dataset; None if all are."""
        masked = self.arrays.get("masked_block")
        if masked is None:
            return None
        number = int(np.searchsorted(masked, block))
        if number == len(masked) or masked[number] != block:
            return None
        documents, begin = int(self.arrays["stored_documents"][number]), int(self.arrays["mask_begin"][number])
        return ~unpack(self.arrays["mask_bits"][begin : begin - (-documents // 8)], documents)


def content_name(content: str, dataset: Dataset) -> str:
    """What the loader calls the data of a source in plans and states: the same for every dataset that has it.

    By content (bamba_data.format.identity) and tokenizer: rows do not depend on ids of documents, but for the hold-out,
    and the candidates for that are in the content.
    """
    return f"content:{content}/{dataset.manifest.tokenizer.sha256[:16]}"


@dataclass(frozen=True)
class AddedBlocks(ShardBlocks):
    """The blocks of a source from number `first` on, as a source of another name: what a derived version added."""

    source: str = ""
    first: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened_added, (*address_of(self.dataset), self.source, self.cache, self.first, self.name)

    @classmethod
    def behind(cls, blocks: ShardBlocks, first: int, name: str) -> "AddedBlocks":
        """The blocks [first:) of a source."""
        arrays = {field: array for field, array in blocks.arrays.items() if not field.startswith(("mask", "stored"))}
        candidate = int(np.searchsorted(arrays["candidate_block"], first))
        for field, array in arrays.items():
            if field.startswith("candidate_"):
                arrays[field] = array[candidate:]
            else:
                arrays[field] = array[2 * first :] if field == "digest" else array[first:]
        arrays["candidate_block"] = arrays["candidate_block"] - first
        if "masked_block" in blocks.arrays:
            masked = int(np.searchsorted(blocks.arrays["masked_block"], first))
            arrays |= {field: blocks.arrays[field][masked:] for field in ("stored_documents", "mask_begin")}
            arrays |= {"masked_block": blocks.arrays["masked_block"][masked:] - first}
            arrays |= {"mask_bits": blocks.arrays["mask_bits"]}
        content = content_of(arrays)
        return cls(blocks.dataset, name, arrays, blocks.cache, content, source=blocks.name, first=first)


def address_of(dataset: Dataset) -> tuple[str, int | str]:
    """Its place, and the version's number, or the digest of a manifest that was opened as an ancestor."""
    return dataset.store.url, dataset.version.number or dataset.manifest.digest


def _reopened(url: str, version: int | str, name: str, cache: Path, lists_all: bool = False) -> ShardBlocks:
    """In another process. Whether it is the same data, the order checks."""
    blocks = open_blocks(_opened(url, version), cache)[name]
    if lists_all:
        from .every_document import listing_all  # which is made of these blocks

        return listing_all(blocks)
    return blocks


def _reopened_added(url: str, version: int | str, source: str, cache: Path, first: int, name: str) -> AddedBlocks:
    return AddedBlocks.behind(_reopened(url, version, source, cache), first, name)


@lru_cache(maxsize=8)
def _opened(url: str, version: int | str) -> Dataset:
    if isinstance(version, str):
        return dataset_of(open_store(url), version)
    return open_dataset(url, f"{ALSO_WITHDRAWN}{version}")  # what is read already is not taken away from its reader


def open_blocks(dataset: Dataset, cache: Path) -> dict[str, ShardBlocks]:
    """All sources of a dataset, by name.

    Args:
        dataset: a version of it.
        cache: the folder that the index is kept in, and mapped from.

    Raises:
        CorruptManifest: the tables are not what the manifest states.
        UserError: the cache folder cannot be written, or loses what is written to it.
    """
    _ = dataset.shards  # now: in a fork, such as a DataLoader's worker, Polars has no threads to read a table with
    return {
        source.name: ShardBlocks(dataset, source.name, arrays, cache, content)
        for source, (content, arrays) in zip(dataset.manifest.sources, open_index(dataset, cache), strict=True)
    }


def _again(read: Callable[[], T]) -> T:
    """What `read` gives, tried READS times. A shard that is not there is a damaged one."""
    for left in reversed(range(READS)):
        try:
            return read()
        except FileNotFoundError as error:
            raise CorruptShard(str(error.filename or error), "is missing") from error
        except CorruptShard:
            if not left:
                raise
    raise AssertionError


@lru_cache(maxsize=FOOTERS)
def _shard_of(key: "_DatasetKey", number: int) -> ShardFooter:
    return read_footer(key.dataset.files_store, key.dataset.shards.row(number, named=True))


class _DatasetKey:
    """A dataset as a key, by what it is and where."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._id = (dataset.store.url, dataset.manifest.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DatasetKey) and self._id == other._id

    def __hash__(self) -> int:
        return hash(self._id)


def _shard(dataset: Dataset, number: int) -> ShardFooter:
    return _shard_of(_DatasetKey(dataset), number)
