"""One input of a unit, opened at a row: documents and rejects from there on, and at its end proof of what was read.

JSON lines are streamed, hashed and verified on the way. Parquet needs seeking: it is staged and verified before its
first row. Rows that finished parts hold already are skipped unparsed, after proof that they are the same as then.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

import xxhash

from bamba_data.document import Document, Reject
from bamba_data.errors import CorruptInput
from bamba_data.filtering.sieve import FIRST_ROWS, Sieve
from bamba_data.filtering.transform import Transform
from bamba_data.format.unit_records import Place, ReadInput
from bamba_data.recipe import Recipe
from bamba_data.sources import jsonl
from bamba_data.sources.base import Source
from bamba_data.sources.decompress import EMPTY, EMPTY_FILE
from bamba_data.sources.parquet import ParquetRows
from bamba_data.storage.fetch import Fetcher, Stream
from bamba_data.storage.locked_file import LockedFile


class PrefixDiffers(Exception):
    """The input is not the one that the finished parts were made of."""


class Prefix:
    """A digest of what was consumed of a file: of its lines one by one, or of the whole file where that is verified
    before the first row is given out."""

    def __init__(self, whole: str = "") -> None:
        self._whole, self._lines = whole, xxhash.xxh3_128()

    def update(self, line: bytes) -> None:
        self._lines.update(line)

    def __str__(self) -> str:
        return self._whole or self._lines.hexdigest()


class Input(Protocol):
    """The caller updates `prefix` with the `line` of every item that it takes. `notes`, complete after `items`, are
    what is odd about the file as a whole."""

    prefix: Prefix
    notes: list[str]

    def items(self) -> Iterator[Document | Reject]: ...

    def bytes_read(self) -> int: ...

    def end(self) -> ReadInput:
        """What was read, after `items` has ended."""


def open_input(
    stack: ExitStack,
    file: LockedFile,
    begin: Place,
    source: Source,
    recipe: Recipe,
    fetcher: Fetcher,
    scratch: Path,
    transform: Transform | None = None,
) -> Input:
    """Open an input at the row of `begin`; what it opens is closed with the `stack`.

    Args:
        stack: Of the caller, who reads within it.
        file: As locked.
        begin: Where finished parts ended, with a digest of what they took of the file.
        source: Says the form of the file.
        recipe: Its limits and rules for bad input.
        fetcher: Reads the file, verified.
        scratch: A folder on this machine, for files that are staged.
        transform: That of the source, loaded.

    Raises:
        PrefixDiffers: The rows before `begin` are not what the finished parts were made of.
        CorruptInput: The file is empty, and the recipe does not keep such files.
    """
    if source.form == "jsonl":
        return LinesInput(stack.enter_context(fetcher.stream(file)), begin, source, recipe, transform)
    if recipe.limits.documents is None:
        staged = stack.enter_context(fetcher.stage(file, scratch))
        opened: BinaryIO = stack.enter_context(staged.path.open("rb"))
        proof = ReadInput(begin.file, staged.sha256, staged.path.stat().st_size, True)
    else:  # a taste: fetch the ranges that it needs, not gigabytes
        opened = stack.enter_context(fetcher.open(file))
        proof = ReadInput(begin.file, None, file.facts.size_bytes, False)
    return ParquetInput(opened, proof, file, begin, source, recipe, transform)


class LinesInput:
    """JSON lines, streamed: gzip cannot seek, so what finished parts hold is read again, and hashed."""

    def __init__(
        self, stream: Stream, begin: Place, source: Source, recipe: Recipe, transform: Transform | None
    ) -> None:
        self.prefix = Prefix()
        self._transform = transform
        self._stream, self._begin, self._source = stream, begin, source
        self._rules, self._limit = recipe.bad_input, recipe.limits.documents
        self._whole = False
        self.notes: list[str] = []

    def items(self) -> Iterator[Document | Reject]:
        path, url = self._stream.file.path, self._stream.file.url
        sieve = Sieve(self._source.where, url, self._transform)
        yield from sieve.sift(self._items(path, url, sieve))

    def _items(self, path: str, url: str, sieve: Sieve) -> Iterator[Document | Reject]:
        parse = jsonl.parser(self._source.text, path, self._rules.max_line_bytes, sieve.columns)
        skipping = self._begin.row > 0
        if not skipping and self._limit is None:
            yield from map(parse, jsonl.lines(self._stream.chunks(), url, self._source, self._rules, self.notes.append))
            self._whole = True
            return
        for line in jsonl.lines(self._stream.chunks(), url, self._source, self._rules, self.notes.append):
            if line.row < self._begin.row:
                self.prefix.update(line.key)
                if sieve.columns and line.row < FIRST_ROWS:
                    sieve.look(parse(line))
                continue
            if skipping:
                self._check()
                skipping = False
            if self._limit is not None and line.row >= self._limit:
                return
            yield parse(line)
        if skipping:
            self._check()
        self._whole = True

    def _check(self) -> None:
        if str(self.prefix) != self._begin.prefix:
            raise PrefixDiffers(f"{self._stream.file.key} is not what it was when its first parts were made")

    def bytes_read(self) -> int:
        return self._stream.bytes_read

    def end(self) -> ReadInput:
        if self._whole:
            return ReadInput(self._begin.file, self._stream.sha256, self._stream.bytes_read, True)
        return ReadInput(self._begin.file, None, self._stream.file.facts.size_bytes, False)


class ParquetInput:
    """Rows of parquet, from a file that was verified as a whole before its first row."""

    def __init__(
        self,
        opened: BinaryIO,
        proof: ReadInput,
        file: LockedFile,
        begin: Place,
        source: Source,
        recipe: Recipe,
        transform: Transform | None,
    ) -> None:
        self._proof, self._file, self._begin, self._limit = proof, file, begin, recipe.limits.documents
        self._max_ratio = recipe.bad_input.max_inflate_ratio
        self.prefix = Prefix(whole=proof.sha256 or "")
        if begin.row and str(self.prefix) != begin.prefix:
            raise PrefixDiffers(f"{file.key} is not what it was when its first parts were made")
        self._row, self.notes = 0, list[str]()
        self._sieve = Sieve(source.where, file.url, transform)
        self._rows = self._opened(opened, source, recipe)

    def _opened(self, file: BinaryIO, source: Source, recipe: Recipe) -> ParquetRows | None:
        if self._proof.size_bytes != 0:
            rows = ParquetRows(file, source.text, self._file.path, self._file.url, asked=self._sieve.columns)
            self._sieve.refuse_types(rows.asked_types)
            return rows
        if recipe.bad_input.empty_files != "keep":
            raise CorruptInput(self._file.url, EMPTY, 0)
        self.notes.append(EMPTY_FILE)
        return None

    def items(self) -> Iterator[Document | Reject]:
        yield from self._sieve.sift(self._items())

    def _items(self) -> Iterator[Document | Reject]:
        if self._rows is None:
            return
        for item in self._rows.read(self._begin.row, self._max_ratio):
            if self._limit is not None and item.row >= self._limit:
                return
            self._row = item.row
            yield item

    def bytes_read(self) -> int:
        """In proportion to the rows: the file itself was read before."""
        rows = self._rows.rows if self._rows else 1
        return int((self._proof.size_bytes or 0) * (self._row + 1) / max(1, rows))

    def end(self) -> ReadInput:
        return self._proof
