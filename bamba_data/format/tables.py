"""The tables behind a manifest, as schemas, as writers that never hold more than a few thousand rows, and as a reader
that no small file can make hold much.

files         one row an input: what it is, and its account; `file` counts within the source
shards        one row a shard; what it says of a row's `file` counts from `first_file`, and `software` wrote it
blocks        one row a block (row group): byte range, counts, digests; `shard` is a row of `shards`
candidates    one row a document that may be held out (see holdout_candidates.py); `shard` is a row of `shards`
dead_letters  one row a file of dead letters
masks         one row a block that has lost documents (see masks.py); in derived versions alone
elsewhere     one row a file of another store (see referring.py); in manifests of the fourth format alone

In the first format of the manifest `first_file`, `ids_digest` and `software` are missing.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, one_line
from bamba_data.format.layout import table_path
from bamba_data.format.manifest import FIRST_FORMAT
from bamba_data.format.manifest_entries import TableEntry
from bamba_data.storage.store import Store

FLUSH_ROWS = 1 << 16

#: Limits of reading. Every row has a path, a digest or a hash of its own: a true table has more bytes than rows.
FEW_ROWS = 100_000  # below this a table may have any number of rows for its bytes
BATCH_ROWS = 8192
MAX_TEXT_BYTES = 16 << 10  # of a path, a URL or a name
EXPANDED_BYTES = 64 << 20  # what any table may take in memory
MAX_RATIO = 200  # and a larger one, as a multiple of its file


def _schema(**kinds: pa.DataType) -> pa.Schema:
    nullable = {"sha256", "size_bytes"}
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in kinds.items()])


def read_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table that the bytes of a parquet file hold.

    On this thread alone: `pyarrow.parquet.read_table` hands its source to threads, and one that lets go of it while the
    process ends aborts that process (pyarrow 26: more than half of those that end at once).
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.read(columns=list(columns) if columns is not None else None, use_threads=False)


_COUNT = pa.struct([pa.field("action", pa.string()), pa.field("reason", pa.string()), pa.field("count", pa.uint64())])

SCHEMAS: Mapping[str, pa.Schema] = {
    "files": _schema(
        source=pa.string(),
        file=pa.uint32(),
        path=pa.string(),
        url=pa.string(),
        size_bytes=pa.uint64(),
        sha256=pa.string(),
        complete=pa.bool_(),
        quarantined=pa.bool_(),
        read=pa.uint64(),
        kept=pa.uint64(),
        dropped=pa.uint64(),
        dead_lettered=pa.uint64(),
        tokens=pa.uint64(),
        text_bytes=pa.uint64(),
        reasons=pa.list_(_COUNT),
    ),
    "shards": _schema(
        source=pa.string(),
        path=pa.string(),
        sha256=pa.string(),
        size_bytes=pa.uint64(),
        documents=pa.uint64(),
        tokens=pa.uint64(),
        blocks=pa.uint32(),
        unit=pa.uint32(),
        part=pa.uint32(),
        backend=pa.string(),
        footer_bytes=pa.uint32(),
        footer_digest=pa.binary(16),
        first_file=pa.uint32(),
        software=pa.string(),
    ),
    "blocks": _schema(
        source=pa.string(),
        shard=pa.uint32(),
        block=pa.uint32(),
        documents=pa.uint32(),
        tokens=pa.uint64(),
        offset=pa.uint64(),
        size_bytes=pa.uint64(),
        digest=pa.binary(16),
        ids_digest=pa.binary(16),
    ),
    "candidates": _schema(
        source=pa.string(),
        shard=pa.uint32(),
        block=pa.uint32(),
        document=pa.uint32(),
        tokens=pa.uint32(),
        hash=pa.uint64(),
    ),
    "dead_letters": _schema(
        source=pa.string(),
        path=pa.string(),
        sha256=pa.string(),
        size_bytes=pa.uint64(),
        records=pa.uint64(),
        software=pa.string(),
    ),
}
#: Of derived versions: not in SCHEMAS, for what a build writes has none.
MASKS = _schema(
    source=pa.string(),
    shard=pa.uint32(),
    block=pa.uint32(),
    removed=pa.binary(),
    documents=pa.uint32(),
    tokens=pa.uint64(),
    digest=pa.binary(16),
    ids_digest=pa.binary(16),
)
#: Of versions that refer to files of other stores.
ELSEWHERE = _schema(path=pa.string(), store=pa.string())
#: The tables that not every manifest has.
DERIVED_SCHEMAS: Mapping[str, pa.Schema] = {"masks": MASKS, "elsewhere": ELSEWHERE}
_LATER = {"first_file", "ids_digest", "software"}


def schemas_of(form: str) -> Mapping[str, pa.Schema]:
    """Of the tables of a manifest of this format."""
    if form != FIRST_FORMAT:
        return SCHEMAS
    return {name: pa.schema([column for column in kind if column.name not in _LATER]) for name, kind in SCHEMAS.items()}


def row_digest(row: Mapping[str, Any]) -> bytes:
    """sha256 of the canonical JSON of a row's values, in the order of their names; bytes in hex."""
    values = [value.hex() if isinstance(value, bytes) else value for _, value in sorted(row.items())]
    return hashlib.sha256(canonical_json.dumps(values)).digest()


def read_bounded(data: bytes, schema: pa.Schema, name: str, rows: int, where: str) -> pa.Table:
    """The table `name` that the bytes of a parquet file hold, which has so many rows. Raises CorruptManifest, before
    much is decoded, if it has others, or if it would expand beyond the limits above."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if not file.schema_arrow.equals(schema):
            raise CorruptManifest(where, f"the table of {name} does not have the columns of one")
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        group_rows = sum(group.num_rows for group in groups)
        if {group_rows, file.metadata.num_rows} != {rows}:
            raise CorruptManifest(where, f"the table of {name} has {group_rows:,} rows, the manifest says {rows:,}")
        if rows > max(FEW_ROWS, len(data)):
            raise CorruptManifest(where, f"the table of {name} has {rows:,} rows in {len(data):,} bytes: it is none")
        limit = max(EXPANDED_BYTES, MAX_RATIO * len(data))
        if sum(group.total_byte_size for group in groups) > limit:
            raise CorruptManifest(where, f"the table of {name} expands to more than {limit:,} bytes")
        return pa.Table.from_batches(_batches(data, schema, name, where, limit), schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptManifest(where, f"the table of {name} is not readable parquet ({one_line(error)})") from None


def _batches(data: bytes, schema: pa.Schema, name: str, where: str, limit: int) -> Iterator[pa.RecordBatch]:
    """Texts come as dictionaries, each value once in memory, and are written out only when their sum is known."""
    # A few bytes of dictionary can say one text for a million rows: so lengths are summed before texts are written out.
    texts = [column.name for column in schema if pa.types.is_string(column.type)]
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    expanded_bytes = 0
    for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
        lengths = [pc.binary_length(batch[text].dictionary) for text in texts]
        if max(pc.max(value_lengths).as_py() or 0 for value_lengths in lengths) > MAX_TEXT_BYTES:
            raise CorruptManifest(where, f"the table of {name} has a text of more than {MAX_TEXT_BYTES:,} bytes")
        expanded_bytes += sum(
            pc.sum(value_lengths.take(batch[text].indices)).as_py() or 0
            for text, value_lengths in zip(texts, lengths, strict=True)
        )
        expanded_bytes += batch.nbytes
        if expanded_bytes > limit:
            raise CorruptManifest(where, f"the table of {name} expands to more than {limit:,} bytes")
        plain = [column.dictionary_decode() if column.type in _DICTIONARIES else column for column in batch.columns]
        yield pa.RecordBatch.from_arrays(plain, schema=schema)


_DICTIONARIES = (pa.dictionary(pa.int32(), pa.string()),)


class TableWriter:
    """Rows in, one content-named parquet file in the store out. Same rows and pyarrow, same bytes; same rows, same
    `content` (sha256 over the digests of all rows, see row_digest), whatever wrote them."""

    def __init__(self, name: str) -> None:
        self.rows = 0
        self._schema = DERIVED_SCHEMAS[name] if name in DERIVED_SCHEMAS else SCHEMAS[name]
        self._held: list[Mapping[str, Any]] = []
        self._content = hashlib.sha256()
        self._folder = tempfile.TemporaryDirectory(prefix="bamba-table-")
        self._path = Path(self._folder.name) / "table.parquet"
        self._writer = pq.ParquetWriter(
            self._path, self._schema, version="2.6", compression="zstd", write_page_checksum=True
        )

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.close()
        self._folder.cleanup()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The next rows, each with all columns of its schema; digests as bytes."""
        self._held.extend(rows)
        self._content.update(b"".join(map(row_digest, rows)))
        self.rows += len(rows)
        if len(self._held) >= FLUSH_ROWS:
            self._flush()

    def save(self, store: Store) -> TableEntry:
        """Ends the table and writes it under its sha256; what a manifest says of it."""
        if self._held or not self.rows:
            self._flush()
        self._writer.close()
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            with store.writer(table_path(digest)) as out:
                while chunk := file.read(8 << 20):
                    out.write(chunk)
        size = self._path.stat().st_size
        return TableEntry(sha256=digest, size_bytes=size, rows=self.rows, content=self._content.hexdigest())

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
        self._held = []
