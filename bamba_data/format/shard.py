"""A shard: a parquet file with one row a document, cut into blocks (row groups) of near-equal token count.

    tokens       binary   the ids, little-endian uint16 (or uint32 where the vocabulary needs it), end to end
    token_count  uint32   how many they are
    document_id  string   as upstream has it: unique within its file, unless the recipe keeps duplicates
    file         uint32   which input: its place among those of the shard, see below
    row          uint64   line or row of that input, from 0

No special tokens are stored: delimiters are the reader's choice. Why binary and not a list: docs/log.md. To read
a row anywhere: `numpy.frombuffer(tokens, "<u2")`; the dtype stands in the metadata of the column and the file.

`file` counts from the first input of the unit that wrote the shard, so that its bytes do not depend on what else the
source has; the manifest's table of shards says which row of `files` that is (`first_file`). In shards of the first
format, `bamba-shard/1`, it counts from the first input of the source.

A block's digest is xxh3-128 over its token bytes followed by its token counts (uint32, little-endian); a footer's is
over its bytes, to the file's end. It is checked before pyarrow may parse them: of some damaged footers it aborts.
"""

import errno
import io
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptShard, one_line
from bamba_data.format.holdout_candidates import LIMIT, Candidate, id_hash
from bamba_data.format.identity import ids_digest

FORMAT = "bamba-shard/2"
FIRST_FORMAT = "bamba-shard/1"  # of another meaning of `file`, else the same
COMPRESSION_LEVEL = 3  # zstd; measured in benchmarks/shard_format.py
MAX_BLOCK_DOCUMENTS = 1 << 24  # as many as the largest `block_tokens` of a recipe; a small file can state any number
BATCH_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Block:
    """One row group: where it lies in the file and what is in it. `ids_digest` is of its document ids."""

    documents: int
    tokens: int
    offset: int
    size_bytes: int
    digest: str
    ids_digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Footer(NamedTuple):
    """The end of a parquet file: its schema, and where its row groups lie."""

    size_bytes: int
    digest: str

    @classmethod
    def of(cls, data: bytes) -> "Footer":
        """`data` is the file, or enough of its end."""
        size = int.from_bytes(data[-8:-4], "little") + 8
        return cls(size, xxhash.xxh3_128_hexdigest(data[-size:]))


class Finished(NamedTuple):
    """A whole shard in memory."""

    data: bytes
    sha256: str
    documents: int
    tokens: int
    blocks: list[Block]
    candidates: list[Candidate]
    footer: Footer


@lru_cache
def schema(dtype: np.dtype[Any], form: str = FORMAT) -> pa.Schema:
    """Of a shard whose ids are of `dtype`, `<u2` or `<u4`. Its metadata says so too, for readers that are not ours."""
    kind = {"token_dtype": dtype.str}
    return pa.schema(
        [
            pa.field("tokens", pa.binary(), nullable=False, metadata=kind),
            pa.field("token_count", pa.uint32(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("file", pa.uint32(), nullable=False),
            pa.field("row", pa.uint64(), nullable=False),
        ],
        metadata={"bamba_format": form, **kind},
    )


def block_digest(tokens: memoryview | bytes, token_counts: npt.NDArray[np.uint32]) -> str:
    """xxh3-128 in hex of the little-endian token bytes of a block, then of its counts: against damage, not forgery
    (against that stands the sha256 of the shard)."""
    hashed = xxhash.xxh3_128(tokens)
    hashed.update(np.ascontiguousarray(token_counts, "<u4").data)
    return hashed.hexdigest()


@dataclass(slots=True)
class _Open:
    """The block being filled."""

    ids: list[npt.NDArray[Any]] = field(default_factory=list)
    document_ids: list[str] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tokens: int = 0


class ShardWriter:
    """Documents in, one shard out. The bytes depend on the documents, the dtype and `block_tokens` alone.

    `full` says that the last block has just ended; memory is that of the compressed shard and one block.
    """

    def __init__(self, dtype: np.dtype[Any], block_tokens: int, blocks_per_shard: int) -> None:
        self._dtype, self._block_tokens, self._blocks_per_shard = dtype, block_tokens, blocks_per_shard
        self._out = io.BytesIO()
        self._schema = schema(dtype)
        self._writer = pq.ParquetWriter(
            self._out,
            self._schema,
            version="2.6",  # of the format, not of a library: all that it has is read by Polars, DuckDB and pandas
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=["file"],
            # Counts are small numbers, rows small steps, and ids of neighbours share their beginnings.
            # https://parquet.apache.org/docs/file-format/data-pages/encodings/
            column_encoding={
                "tokens": "PLAIN",
                "token_count": "DELTA_BINARY_PACKED",
                "document_id": "DELTA_BYTE_ARRAY",
                "row": "DELTA_BINARY_PACKED",
            },
            write_statistics=["file", "row"],
            write_page_checksum=True,
            write_page_index=True,
            data_page_size=8 << 20,  # a block is read whole: more pages would only be more headers
        )
        self._open = _Open()
        self._documents = 0
        self._candidates: list[Candidate] = []
        self._counts: list[tuple[int, int, str, str]] = []  # documents, tokens, digest, ids_digest of each block

    @property
    def documents(self) -> int:
        return self._documents + len(self._open.rows)

    @property
    def full(self) -> bool:
        return len(self._counts) >= self._blocks_per_shard

    def add(self, ids: npt.NDArray[Any], document_id: str, file: int, row: int) -> bool:
        """The next document; whether a block ended with it.

        Args:
            ids: its token ids, one dimension, of any unsigned type whose values fit the shard's dtype.
            document_id: as upstream has it.
            file: which input, counted from the first of the unit.
            row: its line or row in that input, from 0.
        """
        block, tokens = self._open, len(ids)
        if (hashed := id_hash(document_id)) < LIMIT:
            self._candidates.append(Candidate(len(self._counts), len(block.rows), tokens, hashed))
        block.ids.append(ids)
        block.document_ids.append(document_id)
        block.files.append(file)
        block.rows.append(row)
        block.tokens += tokens
        if block.tokens < self._block_tokens:
            return False
        self._end_block()
        return True

    def end_block(self) -> None:
        """End the block here, though it is not full; without documents there is none to end."""
        if self._open.rows:
            self._end_block()

    def finish(self) -> Finished:
        """The whole shard; the last block may be small."""
        self.end_block()
        self._writer.close()
        data = self._out.getvalue()
        meta = pq.read_metadata(io.BytesIO(data))
        blocks = [
            Block(documents, tokens, *row_group_range(meta.row_group(index)), digest, ids)
            for index, (documents, tokens, digest, ids) in enumerate(self._counts)
        ]
        return Finished(
            data,
            sha256(data),
            self._documents,
            sum(b.tokens for b in blocks),
            blocks,
            self._candidates,
            Footer.of(data),
        )

    def _end_block(self) -> None:
        block, self._open = self._open, _Open()
        counts = np.fromiter((len(ids) for ids in block.ids), np.uint32, len(block.ids))
        tokens = np.concatenate(block.ids).astype(self._dtype, copy=False)
        offsets = np.zeros(len(counts) + 1, np.int32)
        offsets[1:] = np.cumsum(counts, dtype=np.int64) * self._dtype.itemsize  # below 2**31: see recipe limits
        table = pa.Table.from_arrays(
            [
                pa.BinaryArray.from_buffers(
                    pa.binary(), len(counts), [None, pa.py_buffer(offsets), pa.py_buffer(tokens)]
                ),
                pa.array(counts),
                pa.array(block.document_ids, pa.string()),
                pa.array(block.files, pa.uint32()),
                pa.array(block.rows, pa.uint64()),
            ],
            schema=self._schema,
        )
        self._writer.write_table(table, row_group_size=len(counts))
        self._documents += len(counts)
        ids = ids_digest(block.document_ids).hex()
        self._counts.append((len(counts), block.tokens, block_digest(tokens.data, counts), ids))


def row_group_range(row_group: Any) -> tuple[int, int]:
    """(offset, size) in bytes of a row group: its column chunks lie end to end, the dictionary page first."""
    starts, ends = [], []
    for index in range(row_group.num_columns):
        chunk = row_group.column(index)
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset is not None:
            start = min(start, chunk.dictionary_page_offset)
        starts.append(start)
        ends.append(start + chunk.total_compressed_size)
    return min(starts), max(ends) - min(starts)


#: What pyarrow raises on damaged bytes; a ValueError where a name in them is no UTF-8.
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class Tokens(NamedTuple):
    """The decoded tokens of a block: all ids end to end, and the count of each document."""

    ids: npt.NDArray[Any]
    counts: npt.NDArray[np.uint32]

    def documents(self) -> list[npt.NDArray[Any]]:
        return np.split(self.ids, np.cumsum(self.counts[:-1], dtype=np.int64))

    def left(self, is_left: npt.NDArray[np.bool_]) -> "Tokens":
        """Those of the documents for which `is_left`, bool [documents], is true."""
        return Tokens(self.ids[np.repeat(is_left, self.counts)], self.counts[is_left])


class ShardReader:
    """Random access to the blocks of one shard. Nothing is yielded that its digest does not vouch for."""

    def __init__(self, file: BinaryIO | pa.NativeFile | str, path: str, metadata: Any = None) -> None:
        """With `metadata`, the parsed footer, the end of the file is not read."""
        self.path = path
        try:
            self.parquet = pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)
            written_schema = self.parquet.schema_arrow
        except _UNREADABLE as error:
            _raise_if_memory(error, path)
            raise CorruptShard(path, f"not a readable parquet file ({one_line(error)})") from None
        stated, form = (
            (written_schema.metadata or {}).get(key, b"").decode("ascii", "replace")
            for key in (b"token_dtype", b"bamba_format")
        )
        if (
            stated not in ("<u2", "<u4")
            or form not in (FORMAT, FIRST_FORMAT)
            or not written_schema.equals(schema(np.dtype(stated), form), check_metadata=True)
        ):
            raise CorruptShard(path, "its columns or metadata are not those of a shard")
        self.dtype = np.dtype(stated)

    def documents(self, index: int) -> int:
        """How many documents block `index` states; nothing is decoded for it."""
        rows = int(self.parquet.metadata.row_group(index).num_rows)
        if not 0 < rows <= MAX_BLOCK_DOCUMENTS:
            raise CorruptShard(self.path, f"block {index} has {rows:,} documents, the limit is {MAX_BLOCK_DOCUMENTS:,}")
        return rows

    @property
    def blocks(self) -> int:
        return int(self.parquet.num_row_groups)

    def tokens(self, index: int, digest: str | None = None, documents: int | None = None) -> Tokens:
        """The tokens of a block.

        Args:
            index: which block, from 0.
            digest: what they must have, in hex; without it nothing vouches for them.
            documents: how many the manifest says that there are.

        Raises:
            CorruptShard: they cannot be decoded, or are not those.
            MemoryError: this process has none left; the block need not be damaged.
        """
        self._expect(index, documents)
        return self.tokens_of(index, self.table(index, ["tokens", "token_count"]), digest)

    def tokens_of(self, index: int, table: pa.Table, digest: str | None = None) -> Tokens:
        """The same, from a table of the block that was read already."""
        decoded = self._decoded(index, table)
        if not np.array_equal(table.column("token_count").to_numpy(), decoded.counts):
            raise CorruptShard(self.path, f"block {index}: token_count is not the length of tokens")
        return decoded if digest is None else self._vouched(index, decoded, digest)

    def vouched_tokens(self, index: int, digest: str, documents: int | None = None) -> Tokens:
        """As `tokens`, from their column alone, an eighth less work: the digest vouches for the counts, too."""
        self._expect(index, documents)
        return self._vouched(index, self._decoded(index, self.table(index, ["tokens"])), digest)

    def tokens_left(self, index: int, is_left: npt.NDArray[np.bool_], digest: str) -> Tokens:
        """The tokens of a block without the documents that are masked; `digest` is of these alone."""
        self._expect(index, len(is_left))
        return self._vouched(index, self._decoded(index, self.table(index, ["tokens"])).left(is_left), digest)

    def _expect(self, index: int, documents: int | None) -> None:
        if documents is not None and self.documents(index) != documents:
            stated = self.documents(index)
            raise CorruptShard(self.path, f"block {index} has {stated:,} documents, the manifest says {documents:,}")

    def _decoded(self, index: int, table: pa.Table) -> Tokens:
        if table.num_rows == 0:
            raise CorruptShard(self.path, f"block {index} has no documents")
        column = table.column("tokens").combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        # Straight from Arrow's buffers, without a copy: offsets in bytes, then all values end to end.
        # https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-layout
        offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        counts, odd = np.divmod(np.diff(offsets), self.dtype.itemsize)
        if odd.any():
            raise CorruptShard(self.path, f"block {index}: a document ends inside a token")
        data = column.buffers()[2]
        raw = memoryview(data)[offsets[0] : offsets[-1]] if data is not None else memoryview(b"")
        return Tokens(np.frombuffer(raw, self.dtype), counts.astype(np.uint32))

    def _vouched(self, index: int, tokens: Tokens, digest: str) -> Tokens:
        if block_digest(tokens.ids.data.cast("B"), tokens.counts) != digest:
            raise CorruptShard(self.path, f"block {index}: its tokens do not have the digest {digest}")
        return tokens

    def batches(self, index: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of block `index` in order, a bounded number at a time."""
        self.documents(index)
        try:
            for batch in self.parquet.iter_batches(BATCH_ROWS, [index], list(columns), use_threads=False):
                batch.validate(full=True)
                yield batch
        except _UNREADABLE as error:
            raise CorruptShard(self.path, f"block {index} cannot be decoded ({one_line(error)})") from None

    def table(self, index: int, columns: Sequence[str]) -> pa.Table:
        self.documents(index)
        try:
            table = self.parquet.read_row_group(index, columns=list(columns), use_threads=False)
            table.validate(full=True)  # page checksums leave out the page headers, which say how to decode
            return table
        except _UNREADABLE as error:
            _raise_if_memory(error, self.path)
            raise CorruptShard(self.path, f"block {index} cannot be decoded ({one_line(error)})") from None


def _raise_if_memory(error: BaseException, path: str) -> None:
    """Damage may ask for any amount of memory, and so may a healthy block of a process that has none left. It is the
    process where it cannot have a megabyte either."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        try:
            mmap.mmap(-1, 1 << 20).close()
        except OSError:
            raise MemoryError(f"{path}: no memory is left to read it ({one_line(error)}); it is not damaged") from None
