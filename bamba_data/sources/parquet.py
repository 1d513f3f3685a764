"""Parquet in, documents out: only the text and id columns are read, by name, a bounded batch at a time.

Other columns, and their drift from file to file, do not matter. A file without a text column, or with one that
is not text, is not the file that the recipe means: that is an error, not a million bad records. (One of the type
null is text that is missing in every row: what a writer makes of a part that happens to have none.)
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.cached_property import cached_property
from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.errors import CorruptInput, InputTooLarge, one_line
from bamba_data.sources.base import TextRule
from bamba_data.sources.columns import Columns, ids, plain_bytes, python_type, values
from bamba_data.sources.compression import HEAD_BYTES
from bamba_data.sources.decompress import RATIO_AFTER_BYTES
from bamba_data.sources.forms import refuse_other_than_parquet

BATCH_BYTES = 8 << 20
MIN_BATCH_ROWS, MAX_BATCH_ROWS = 4, 256
EXPANDED_BYTES = 512 << 20  # of a batch, if a dictionary said the largest text possible once for all its rows
BUFFER_BYTES = 4 << 20  # a column chunk is read in pieces of this: a request each, where the file is remote
MAX_RATIO = 200


class ParquetRows:
    """The rows of one opened file. Everything that Arrow finds wrong is a CorruptInput that names `url`; a file that
    is not parquet, or has not the columns of the rule, is a WrongForm."""

    def __init__(
        self, file: BinaryIO, rule: TextRule, path: str, url: str, metadata: Any = None, asked: Sequence[str] = ()
    ) -> None:
        """With `metadata`, the parsed footer, the end of the file is not read. Documents have the values of the columns
        that are `asked` for."""
        self._rule, self._path, self._url, self._raw = rule, path, url, file
        with self._named():
            self._file = pq.ParquetFile(
                file, metadata=metadata, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            self._columns = Columns.of(self._file.schema_arrow, rule, url, asked)
        self.rows: int = self._file.metadata.num_rows

    def read(self, start_row: int = 0, max_ratio: int = MAX_RATIO) -> Iterator[Document | Reject]:
        """One item for every row from `start_row` on, in order. Raises InputTooLarge if their texts are more than
        `max_ratio` times the file: a dictionary can say one text for a million rows."""
        row = given = 0
        size_bytes = self._raw.seek(0, io.SEEK_END)
        for group, rows in enumerate(self.groups):
            if row + rows > start_row:
                for item in self.read_group(group, max(0, start_row - row), rows):
                    given += len(item.text) if isinstance(item, Document) else item.raw_bytes
                    if given > RATIO_AFTER_BYTES and given > max_ratio * size_bytes:
                        raise InputTooLarge(
                            self._url, f"expands more than {max_ratio} times (bad_input.max_inflate_ratio)"
                        )
                    yield item
            row += rows
        if row != self.rows:
            raise CorruptInput(self._url, f"its row groups have {row:,} rows, its footer says {self.rows:,}")

    @property
    def asked_types(self) -> list[type | None]:
        """The Python types of the columns that were asked for; None of one that has only nulls."""
        return [python_type(column.kind) for column in self._columns.asked]

    @cached_property
    def groups(self) -> list[int]:
        """The rows of every row group."""
        return [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]

    @cached_property
    def _firsts(self) -> list[int]:
        return list(accumulate(self.groups, initial=0))

    def read_group(self, group: int, begin: int, end: int) -> Iterator[Document | Reject]:
        """One item for every row [begin, end) of a row group, in order; what lies before is decoded, and skipped."""
        first, row, rows = self._firsts[group], 0, self.groups[group]
        for batch in self._batches(group):
            skip = max(0, min(begin - row, batch.num_rows))
            part = batch.slice(skip, max(0, min(end - row, batch.num_rows) - skip))
            yield from _documents(part, self._columns, self._rule, self._path, first + row + skip)
            row += batch.num_rows
            if end <= row < rows:
                return
        if row != rows:
            raise CorruptInput(self._url, f"row group {group} ends at row {row:,}, not at {rows:,}")

    def _batches(self, group: int) -> Iterator[pa.RecordBatch]:
        rows = _batch_rows(self._file.metadata.row_group(group))
        with self._named():
            yield from self._file.iter_batches(rows, row_groups=[group], columns=self._columns.paths, use_threads=False)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._refuse_other_forms()
            raise CorruptInput(self._url, f"damaged parquet ({one_line(error)})") from None

    def _refuse_other_forms(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._raw.seek(0)
            refuse_other_than_parquet(self._raw.read(HEAD_BYTES), self._url)


def _batch_rows(meta: Any) -> int:
    """Rows that are some BATCH_BYTES together, by the size that the row group states, and fewer where it is large: one
    text may be all of it, and stand in every row. Not by the sizes of its columns: asked for a column, pyarrow aborts
    the process where that column's statistics are damaged."""
    size_bytes = max(1, meta.total_byte_size)
    usual = BATCH_BYTES * meta.num_rows // size_bytes
    safe = max(MIN_BATCH_ROWS, min(MAX_BATCH_ROWS, EXPANDED_BYTES // size_bytes))
    return int(max(1, min(usual, safe)))


def _documents(
    batch: pa.RecordBatch, columns: Columns, rule: TextRule, path: str, first_row: int
) -> Iterator[Document | Reject]:
    texts = [[(column.name, plain_bytes(column.of(batch))) for column in names] for names in columns.texts]
    document_ids = ids(columns.id.of(batch)) if columns.id else None
    others = [values(column.of(batch)) for column in columns.asked]
    id_notes = () if rule.id_field is None else ("id_made",)
    for index in range(batch.num_rows):
        row = first_row + index
        parts: list[str] = []
        notes: tuple[str, ...] = ()
        for alternatives in texts:
            name, raw = next(((name, v[index]) for name, v in alternatives if v[index] is not None), ("", None))
            if raw is None:
                asked = " and ".join(repr(name) for name, _ in alternatives)
                yield _reject(row, "missing_text", f"{asked} {'is' if len(alternatives) == 1 else 'are'} null", b"")
                break
            try:
                parts.append(raw.decode())
            except UnicodeDecodeError as error:
                yield _reject(row, "bad_utf8", f"{error.reason} at byte {error.start} of {name!r}", raw)
                break
            if len(alternatives) > 1 and name != alternatives[0][0]:
                notes = (*notes, f"text_in:{name}")
        else:
            cells = tuple(column[index] for column in others)
            document_id = document_ids[index] if document_ids is not None else None
            text = parts[0] if len(parts) == 1 else rule.join.join(parts)
            if isinstance(document_id, str):
                yield Document(row, document_id, text, notes=notes, columns=cells)
            elif isinstance(document_id, int):
                yield Document(row, str(document_id), text, notes=(*notes, "id_not_string"), columns=cells)
            else:
                yield Document(row, f"{path}#{row}", text, notes=(*notes, *id_notes), columns=cells)


def _reject(row: int, reason: str, detail: str, raw: bytes) -> Reject:
    return Reject(row, reason, detail, raw[:RAW_BYTES], len(raw), hashlib.sha256(raw).hexdigest())
