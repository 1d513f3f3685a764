"""Megatron's token files: one `<source>.bin` and `<source>.idx` a source, each document one sequence.

The lengths of the documents grow in a file beside the ids, and the index is made of them at the end, a piece at a time:
a source of any size is exported in the memory of a few blocks.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset

from .appended_file import AppendedFile, DamagedExport, put_in_place
from .export_form import Written
from .export_record import META, ExportRecord
from .megatron_index import IndexHeader, stored_dtype
from .token_blocks import SourceShard, TokenBlock

PIECE_DOCUMENTS = 1 << 20  # of which the index is made at once
MAX_DOCUMENT_TOKENS = 2**31 - 1  # lengths are int32


class MegatronExport:
    """Implements `ExportForm`."""

    name = "megatron"
    with_lineage = False
    #: Without an end after every document Megatron would train across them, and not say so.
    default_delimiters: str | None = None

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None:
        self._out, self._source = out, record.source
        self._code, self._dtype = stored_dtype(dataset.manifest.tokenizer.token_dtype)
        self._bin, self._idx = out / f"{record.source}.bin", out / f"{record.source}.idx"
        self._bin_part, self._lengths = f"{record.source}.bin.part", f"{META}/lengths-{record.source}.part"

    @property
    def results(self) -> list[Path]:
        return [self._bin, self._idx]

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        self._ids, self._counts = (
            resources.enter_context(AppendedFile(self._out / name, record.file_bytes.get(name, 0)))
            for name in (self._bin_part, self._lengths)
        )

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        documents = tokens = 0
        for block in blocks:
            if len(block.counts) and int(block.counts.max()) > MAX_DOCUMENT_TOKENS:
                raise UserError(f"{shard.row['path']}: a document of more than {MAX_DOCUMENT_TOKENS:,} tokens")
            self._ids.write(np.ascontiguousarray(block.ids).astype(self._dtype, copy=False).data)
            self._counts.write(block.counts.astype("<i4").data)
            documents += len(block.counts)
            tokens += len(block.ids)
        return Written(documents, tokens)

    def sync(self) -> dict[str, int]:
        return {self._bin_part: self._ids.sync(), self._lengths: self._counts.sync()}

    def finish(self, record: ExportRecord) -> None:
        part, size = self._out / self._bin_part, record.tokens * self._dtype.itemsize
        _check_size(part if part.exists() else self._bin, size)
        lengths = self._out / self._lengths
        _check_size(lengths, record.documents * 4)
        self._write_index(lengths, record.documents)
        if part.exists():
            put_in_place(part, self._bin)

    def tidy(self) -> None:
        (self._out / self._lengths).unlink(missing_ok=True)

    def _write_index(self, lengths: Path, documents: int) -> None:
        part = self._idx.with_name(f"{self._idx.name}.part")
        part.unlink(missing_ok=True)
        with AppendedFile(part, 0) as file:
            file.write(IndexHeader(1, self._code, documents, documents + 1).packed())
            for counts in _pieces(lengths):
                file.write(counts.data)
            offset = 0
            for counts in _pieces(lengths):
                sizes = counts.astype(np.int64) * self._dtype.itemsize
                ends = offset + np.cumsum(sizes)
                file.write((ends - sizes).astype("<i8").data)
                offset = int(ends[-1])
            for first in range(0, documents + 1, PIECE_DOCUMENTS):
                file.write(np.arange(first, min(first + PIECE_DOCUMENTS, documents + 1), dtype="<i8").data)
            file.sync()
        put_in_place(part, self._idx)


def _pieces(lengths: Path) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
    with lengths.open("rb") as file:
        while data := file.read(PIECE_DOCUMENTS * 4):
            yield np.frombuffer(data, "<i4")


def _check_size(path: Path, size_bytes: int) -> None:
    there = path.stat().st_size if path.exists() else 0
    if there != size_bytes:
        raise DamagedExport(
            f"{path}: has {there:,} bytes, not the {size_bytes:,} that were written; remove the folder and export again"
        )
