"""One block of a shard, read by its byte range and vouched for: nothing else of the shard is fetched but its footer.

A footer is checked against the manifest's digest before pyarrow may parse it: of some damaged footers it aborts.
"""

import io
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.errors import CorruptShard
from bamba_data.format.masks import Flags
from bamba_data.format.shard import Footer, ShardReader, Tokens
from bamba_data.storage.store import Store


class ShardFooter(NamedTuple):
    """Where a shard lies, and its footer, parsed."""

    path: str
    metadata: Any


class BlockPlace(NamedTuple):
    """What the tables say of a block: its row group and byte range; and counts and digest, in hex, of its documents
    that are part of the dataset (Dataset.as_read)."""

    block: int
    offset: int
    size_bytes: int
    documents: int
    tokens: int
    digest: str


def read_footer(store: Store, shard: dict[str, Any]) -> ShardFooter:
    """The footer of a shard; `shard` is its row in the table of shards.

    Raises:
        CorruptShard: it is not the one that the manifest lists.
        FileNotFoundError: there is no such shard.
    """
    path, size, footer = shard["path"], shard["size_bytes"], shard["footer_bytes"]
    data = store.read_range(path, size - footer, size)
    if Footer.of(data) != Footer(footer, shard["footer_digest"].hex()):
        raise CorruptShard(path, "its footer does not have the manifest's digest")
    return ShardFooter(path, pq.read_metadata(pa.BufferReader(data)))


def fetch_block(store: Store, shard: ShardFooter, place: BlockPlace) -> ShardReader:
    """A reader of the shard that has the bytes of this one block."""
    body = store.read_range(shard.path, place.offset, place.offset + place.size_bytes)
    if len(body) != place.size_bytes:
        raise CorruptShard(shard.path, f"ends inside block {place.block}")
    return ShardReader(FilePiece(place.offset, body), shard.path, shard.metadata)


def vouched_tokens(reader: ShardReader, place: BlockPlace, is_left: Flags | None = None) -> Tokens:
    """The tokens of the block, which are those of the manifest. Raises CorruptShard.

    Args:
        reader: of the block's bytes.
        place: what is to be there.
        is_left: of a block that has lost documents, which are left: bool [documents as stored] (see masks.py).
    """
    if is_left is None:
        tokens = reader.vouched_tokens(place.block, place.digest, place.documents)
    else:
        tokens = reader.tokens_left(place.block, is_left, place.digest)
    if len(tokens.counts) != place.documents or len(tokens.ids) != place.tokens:
        raise CorruptShard(reader.path, f"block {place.block}: documents or tokens are not the manifest's")
    return tokens


class FilePiece(io.RawIOBase):
    """A file of which only `data`, from byte `start` on, is here; to read elsewhere is an error, never zeros."""

    def __init__(self, start: int, data: bytes) -> None:
        self._start, self._data, self._at = start, data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._start + len(self._data))[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        place = self._at - self._start
        if place < 0 or place + size > len(self._data):
            raise OSError(f"bytes {self._at:,} to {self._at + size:,} were not fetched")
        data = self._data[place : place + size]
        self._at += len(data)
        return data
