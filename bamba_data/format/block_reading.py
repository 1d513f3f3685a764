"""One block of a shard, read by its byte range and vouched for: nothing else of the shard is fetched but its footer.

A footer is checked against the manifest's digest before pyarrow may parse it: of some damaged footers it aborts.
"""

import io
import threading
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from bamba_data import native
from bamba_data.errors import CorruptShard
from bamba_data.format.masks import Flags
from bamba_data.format.shard import Footer, ShardReader, Tokens, block_digest
from bamba_data.storage.store import Store

_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_LARGEST_HEADER = 256  # of a page, in bytes; without statistics it has some 30


_OF_THREAD = threading.local()  # a decompressor is of one thread, and to make one costs a tenth of a block


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
    return _reader(_body(store, shard, place), shard, place)


def _body(store: Store, shard: ShardFooter, place: BlockPlace) -> bytes:
    body = store.read_range(shard.path, place.offset, place.offset + place.size_bytes)
    if len(body) != place.size_bytes:
        raise CorruptShard(shard.path, f"ends inside block {place.block}")
    return body


def _reader(body: bytes, shard: ShardFooter, place: BlockPlace) -> ShardReader:
    return ShardReader(FilePiece(place.offset, body), shard.path, shard.metadata)


def block_tokens(
    store: Store, shard: ShardFooter, place: BlockPlace, dtype: np.dtype[Any], is_left: Flags | None = None
) -> Tokens:
    """The tokens of a block, fetched, which are those of the manifest: `vouched_tokens` of `fetch_block`, in a third
    of the time where nothing was left out and this machine has bamba_data.native. Raises CorruptShard."""
    body = _body(store, shard, place)
    tokens = _first_page(body, place, dtype) if is_left is None else None
    return tokens or vouched_tokens(_reader(body, shard, place), place, is_left)


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_OF_THREAD, "zstd"):
        _OF_THREAD.zstd = zstandard.ZstdDecompressor()
    zstd: zstandard.ZstdDecompressor = _OF_THREAD.zstd
    return zstd


def _first_page(body: bytes, place: BlockPlace, dtype: np.dtype[Any]) -> Tokens | None:
    """The tokens in the first page of a block, if they are the manifest's; None leaves it to pyarrow, which also knows
    what is wrong.

    What we write has one page of the column `tokens`, the first of its block. How many bytes it has is known, and what
    comes out is vouched for by its digest, so nothing has to be believed of the headers: not even where the page
    begins, which is where zstd's frame does.
    """
    frame = body.find(_ZSTD, 0, _LARGEST_HEADER)
    if native.CODE is None or frame < 0:
        return None
    size = place.tokens * dtype.itemsize + 4 * place.documents
    try:
        if zstandard.get_frame_parameters(body[frame : frame + 18]).content_size != size:
            return None
        page = np.empty(size, np.uint8)
        with _decompressor().stream_reader(memoryview(body)[frame:]) as stream:
            if stream.readinto(page.data) != size:
                return None
    except zstandard.ZstdError:
        return None
    found = native.plain_page(page, place.documents, place.tokens, dtype)
    return Tokens(*found) if found and block_digest(found[0].data.cast("B"), found[1]) == place.digest else None


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
