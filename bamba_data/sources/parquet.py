"""Parquet in, documents out: only the text and id columns are read, by name, a bounded batch at a time.

Other columns, and their drift from file to file, do not matter. A file without a text column, or with one that
is not text, is not the file that the recipe means: that is an error, not a million bad records.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.errors import CorruptInput
from bamba_data.sources.base import TextRule

BATCH_BYTES = 8 << 20
MAX_BATCH_ROWS = 4096
BUFFER_BYTES = 4 << 20


class ParquetRows:
    """The rows of one opened file. Everything that Arrow finds wrong is a CorruptInput that names `url`."""

    def __init__(self, file: BinaryIO, rule: TextRule, path: str, url: str) -> None:
        self._rule, self._path, self._url = rule, path, url
        with self._named():
            self._file = pq.ParquetFile(
                file, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            self._has_id = _check_schema(self._file.schema_arrow, rule, url)
        self.rows: int = self._file.metadata.num_rows

    def read(self, start_row: int = 0) -> Iterator[Document | Reject]:
        """One item for every row from `start_row` on, in order."""
        id_field = self._rule.id_field
        columns = [*self._rule.fields, id_field] if self._has_id and id_field else self._rule.fields
        row = 0
        for group in range(self._file.num_row_groups):
            meta = self._file.metadata.row_group(group)
            if row + meta.num_rows <= start_row:
                row += meta.num_rows
                continue
            for batch in self._batches(group, columns):
                skip = max(0, min(start_row - row, batch.num_rows))
                yield from _documents(batch.slice(skip), self._rule, self._path, row + skip, self._has_id)
                row += batch.num_rows

    def _batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        rows = _batch_rows(self._file.metadata.row_group(group), columns)
        with self._named():
            yield from self._file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise CorruptInput(self._url, f"damaged parquet ({' '.join(str(error).split())[:200]})") from None


def _batch_rows(meta: Any, columns: list[str]) -> int:
    """Rows that are some BATCH_BYTES together, by the sizes that the row group states."""
    sizes = [meta.column(i) for i in range(meta.num_columns) if meta.column(i).path_in_schema in columns]
    bytes_a_row = sum(column.total_uncompressed_size for column in sizes) / max(1, meta.num_rows)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / max(1.0, bytes_a_row))))


def _check_schema(schema: pa.Schema, rule: TextRule, url: str) -> bool:
    for name in rule.fields:
        if name not in schema.names:
            raise CorruptInput(url, f"has no column {name!r}; its columns are {schema.names}")
        if not _is_text(schema.field(name).type):
            raise CorruptInput(url, f"column {name!r} is {schema.field(name).type}, not text")
    return rule.id_field is not None and rule.id_field in schema.names


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _documents(
    batch: pa.RecordBatch, rule: TextRule, path: str, first_row: int, has_id: bool
) -> Iterator[Document | Reject]:
    texts = [_plain(batch.column(name)) for name in rule.fields]
    ids = batch.column(rule.id_field).to_pylist() if has_id else None
    made = () if rule.id_field is None else ("id_made",)
    for index in range(batch.num_rows):
        row = first_row + index
        parts: list[str] = []
        for name, column in zip(rule.fields, texts, strict=True):
            raw = column[index]
            if raw is None:
                yield _reject(row, "missing_text", f"{name!r} is null", b"")
                break
            try:
                parts.append(raw.decode())
            except UnicodeDecodeError as error:
                yield _reject(row, "bad_utf8", f"{error.reason} at byte {error.start} of {name!r}", raw)
                break
        else:
            found = ids[index] if ids is not None else None
            text = parts[0] if len(parts) == 1 else rule.join.join(parts)
            if isinstance(found, str):
                yield Document(row, found, text)
            elif isinstance(found, int):
                yield Document(row, str(found), text, notes=("id_not_string",))
            else:
                yield Document(row, f"{path}#{row}", text, notes=made)


def _plain(column: pa.Array) -> list[bytes | None]:
    """A text column as bytes: Arrow does not check UTF-8, so we do, text by text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    values: list[bytes | None] = column.view(pa.large_binary() if large else pa.binary()).to_pylist()
    return values


def _reject(row: int, reason: str, detail: str, raw: bytes) -> Reject:
    return Reject(row, reason, detail, raw[:RAW_BYTES], len(raw), hashlib.sha256(raw).hexdigest())
