"""The blocks of a source: how many documents and tokens each has, known at once, and its tokens, verified when read.

The counts come from the manifest's table of blocks. They are kept as arrays in the cache folder, mapped and not
loaded: nine million blocks cost a process no memory, and all processes of a host after the first no time.
"""

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, CorruptShard, UserError
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.identity import Identifying
from bamba_data.format.shard import Footer, ShardReader, Tokens
from bamba_data.format.version_marks import ALSO_WITHDRAWN

from ..cache.atomic_write import write_whole
from ..cache.mmap import map_file

FOOTERS = 64  # parsed ones held
READS = 3  # of what does not have its digest: bits may flip on the way, too

T = TypeVar("T")

#: The arrays of an index, one element a block, and the candidates for being held out.
FIELDS: Mapping[str, str] = {
    "shard": "<u4",
    "block": "<u4",
    "documents": "<i8",
    "tokens": "<i8",
    "offset": "<u8",
    "size_bytes": "<u8",
    "digest": "<u8",
    "candidate_block": "<i8",
    "candidate_document": "<i8",
    "candidate_tokens": "<i8",
    "candidate_hash": "<u8",
}


class Blocks(Protocol):
    """What the order is made of. `documents` and `tokens` have an element a block; `read(n)` gives block n, verified.

    `identity` changes with any token, document border or candidate, and with nothing else; `candidates` are the
    documents that may be held out.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def documents(self) -> NDArray[np.int64]: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def candidates(self) -> "Candidates": ...
    def read(self, block: int) -> Tokens: ...
    def digest(self, block: int) -> bytes:
        """16 bytes that change with any token or document boundary of the block."""


class Candidates(NamedTuple):
    """Documents that may be held out, by block of the source, place in it, tokens, hash of the id (below LIMIT)."""

    block: NDArray[np.int64]
    document: NDArray[np.int64]
    tokens: NDArray[np.int64]
    hash: NDArray[np.uint64]


class Indexed:
    """What an index says of blocks: `arrays` by the names of FIELDS."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def documents(self) -> NDArray[np.int64]:
        return self.arrays["documents"]

    @property
    def tokens(self) -> NDArray[np.int64]:
        return self.arrays["tokens"]

    @cached_property
    def candidates(self) -> Candidates:
        return Candidates(*(self.arrays[f"candidate_{field}"] for field in Candidates._fields))

    def digest(self, block: int) -> bytes:
        return self.arrays["digest"][2 * block : 2 * block + 2].tobytes()


@dataclass(frozen=True)
class ShardBlocks(Indexed):
    """A source of a published dataset."""

    dataset: Dataset
    name: str
    arrays: Mapping[str, NDArray[Any]]
    cache: Path  # where they are mapped from
    content: str  # see bamba_data.format.identity

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.dataset.store.url, self.dataset.version.number, self.name, self.cache)

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
        start, size = int(self.arrays["offset"][block]), int(self.arrays["size_bytes"][block])
        body = self.dataset.store.read_range(shard.path, start, start + size)
        if len(body) != size:
            raise CorruptShard(shard.path, f"ends inside block {row_group}")
        reader = ShardReader(_Piece(start, body), shard.path, shard.metadata)
        tokens = reader.vouched_tokens(row_group, self.digest(block).hex(), int(self.documents[block]))
        if len(tokens.counts) != self.documents[block] or len(tokens.ids) != self.tokens[block]:
            raise CorruptShard(shard.path, f"block {row_group}: documents or tokens are not the manifest's")
        return tokens

    def counts(self, block: int) -> NDArray[np.uint32]:
        """Tokens of each document, from their column alone: page checksums vouch for it, not the block's digest."""
        number, row_group = self.place(block)
        shard = _shard(self.dataset, number)
        group = shard.metadata.row_group(row_group)
        (column,) = (one for one in map(group.column, range(group.num_columns)) if one.path_in_schema == "token_count")
        start, size = column.data_page_offset, column.total_compressed_size
        body = self.dataset.store.read_range(shard.path, start, start + size)
        reader = ShardReader(_Piece(start, body), shard.path, shard.metadata)
        return reader.table(row_group, ["token_count"]).column("token_count").to_numpy()  # type: ignore[no-any-return]


def content_name(content: str, dataset: Dataset) -> str:
    """What the loader calls the data of a source in plans and states: the same for every dataset that has it.

    By content (bamba_data.format.identity) and tokenizer: rows do not depend on ids of documents, but for the hold-out,
    and the candidates for that are in the content.
    """
    return f"content:{content}/{dataset.manifest.tokenizer.sha256[:16]}"


def _reopened(url: str, version: int, name: str, cache: Path) -> ShardBlocks:
    """In another process. Whether it is the same data, the order checks."""
    return open_blocks(_opened(url, version), cache)[name]


@lru_cache(maxsize=8)
def _opened(url: str, version: int) -> Dataset:
    return open_dataset(url, f"{ALSO_WITHDRAWN}{version}")  # what is read already is not taken away from its reader


def open_blocks(dataset: Dataset, cache: Path) -> dict[str, ShardBlocks]:
    """All sources of a dataset, by name. Raises CorruptManifest where its tables are not what the manifest states."""
    digest = canonical_json.digest([dataset.manifest.tables.blocks.sha256, dataset.manifest.tables.candidates.sha256])
    folder = cache / "index" / digest[:32]
    _ = dataset.shards  # now: in a fork, such as a DataLoader's worker, Polars has no threads to read a table with
    sources = len(dataset.manifest.sources)
    index = _read_index(folder, sources)
    for _ in range(READS):  # another process may be mending it, too
        if index is None:
            try:
                _write_index(dataset, folder)
            except OSError as error:
                raise UserError(
                    f"the cache folder {cache} cannot be written ({error.strerror}): make room, or name another by "
                    "cache= or $BAMBA_CACHE"
                ) from error
            index = _read_index(folder, sources)
    if index is None:
        raise UserError(f"the cache folder {cache} loses what is written to it: name another by cache= or $BAMBA_CACHE")
    found: dict[str, ShardBlocks] = {}
    for source, (content, arrays) in zip(dataset.manifest.sources, index, strict=True):
        if len(arrays["tokens"]) != source.blocks or int(arrays["tokens"].sum()) != source.account.tokens:
            raise CorruptManifest(dataset.store.url, f"the blocks of source {source.name} are not what it says of them")
        if source.identity is not None and source.identity.content != content:
            raise CorruptManifest(dataset.store.url, f"the content of source {source.name} is not what it states")
        found[source.name] = ShardBlocks(dataset, source.name, arrays, cache, content)
    return found


def _content_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of the arrays of a source: what is served is then what the plan and the caches are named for."""
    made, digests = Identifying(), arrays["digest"].tobytes()
    made.add_blocks(arrays["documents"], arrays["tokens"], [digests], None)
    made.add_candidates(*(arrays[f"candidate_{name}"] for name in ("block", "document", "tokens", "hash")))
    return made.done().content


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


def _read_index(folder: Path, sources: int) -> list[tuple[str, dict[str, NDArray[Any]]]] | None:
    """Content and arrays of every source; None if there are none, or one is damaged."""
    try:
        listed = canonical_json.loads((folder / "index.json").read_bytes(), str(folder), 1 << 24)
        return [
            (
                _entry(listed, f"{number}.content")[1],
                {field: _mapped(folder / f"{number}.{field}", dtype, listed) for field, dtype in FIELDS.items()},
            )
            for number in range(sources)
        ]
    except (OSError, CorruptManifest, _Damaged):
        return None


class _Damaged(Exception):
    """A file of the index is not what index.json says, or that is no list of them: all are made anew."""


def _entry(listed: Any, name: str) -> list[Any]:
    entry = listed.get(name) if isinstance(listed, dict) else None
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        raise _Damaged
    return entry


def _mapped(path: Path, dtype: str, listed: Any) -> NDArray[Any]:
    found = map_file(path)
    if [len(found), xxhash.xxh3_128_hexdigest(found.data)] != _entry(listed, path.name):
        raise _Damaged
    return np.frombuffer(found, dtype)


def _write_index(dataset: Dataset, folder: Path) -> None:
    """The arrays of every source as files, the list of them last. Processes that do this at once write the same."""
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    listed: dict[str, tuple[int, str]] = {}
    for number, source in enumerate(dataset.manifest.sources):
        blocks = dataset.blocks.filter(pl.col("source") == source.name)
        places = blocks.select("shard", "block").with_row_index("candidate_block")
        chosen = (
            dataset.candidates.filter(pl.col("source") == source.name)
            .join(places, on=["shard", "block"])
            .sort("candidate_block", "document")
        )
        plain = ("shard", "block", "documents", "tokens", "offset", "size_bytes")
        arrays = {name: blocks[name].to_numpy() for name in plain}
        arrays["digest"] = np.frombuffer(b"".join(blocks["digest"].to_list()), "<u8")
        arrays["candidate_block"] = chosen["candidate_block"].to_numpy()
        for name in ("document", "tokens", "hash"):
            arrays[f"candidate_{name}"] = chosen[name].to_numpy()
        for field, dtype in FIELDS.items():
            data = np.ascontiguousarray(arrays[field], dtype).tobytes()
            listed[f"{number}.{field}"] = (len(data), xxhash.xxh3_128_hexdigest(data))
            _replace(folder / f"{number}.{field}", data)
        listed[f"{number}.content"] = (0, _content_of(arrays))
    _replace(folder / "index.json", canonical_json.dumps(listed))


def _replace(path: Path, data: bytes) -> None:
    """Write a file, unless it is there and is that already."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    path.unlink(missing_ok=True)
    write_whole(path, [data])


class _Shard(NamedTuple):
    path: str
    metadata: Any


@lru_cache(maxsize=FOOTERS)
def _shard_of(dataset_key: "_Key", number: int) -> _Shard:
    row = dataset_key.dataset.shards.row(number, named=True)
    path, size, footer = row["path"], row["size_bytes"], row["footer_bytes"]
    data = dataset_key.dataset.store.read_range(path, size - footer, size)
    if Footer.of(data) != Footer(footer, row["footer_digest"].hex()):
        raise CorruptShard(path, "its footer does not have the manifest's digest")
    return _Shard(path, pq.read_metadata(pa.BufferReader(data)))


class _Key:
    """A dataset as a key, by what it is and where."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._id = (dataset.store.url, dataset.manifest.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._id == other._id

    def __hash__(self) -> int:
        return hash(self._id)


def _shard(dataset: Dataset, number: int) -> _Shard:
    return _shard_of(_Key(dataset), number)


class _Piece(io.RawIOBase):
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
        found = self._data[place : place + size]
        self._at += len(found)
        return found


def chosen(available: Mapping[str, Blocks], names: list[str]) -> list[Blocks]:
    """The sources of these names; an unknown one is an error that lists what there is."""
    if unknown := sorted(set(names) - set(available)):
        raise UserError(f"no source {unknown}: the data has {sorted(available)}")
    return [available[name] for name in names]
