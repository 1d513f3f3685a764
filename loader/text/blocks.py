"""A text source as blocks of the order: rows of parquet files, tokenized when they are read, verified by their index.

The index (index_format.py) says how many tokens every block has and what their digest is, so the order is known before
a text is read, and every promise about it holds as for shards. What is read later and gives other tokens is an error
that names the file; other rows are never served in its place.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property
from bamba_data.document import Document, Reject
from bamba_data.errors import InputChanged, StaleIndex, TokenizerError, UserError
from bamba_data.format.shard import Footer, Tokens, block_digest
from bamba_data.format.tables import read_table
from bamba_data.sources.base import TextRule
from bamba_data.sources.parquet import ParquetRows
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.storage.store import open_store
from bamba_data.tokenization.encode import batches
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer, TooLongToEncode

from ..sources.base import Indexed
from .index_format import Index, IndexedFile, part_path
from .spec import TextSource

LOG = logging.getLogger(__name__)

FILES_KEPT = 64  # of which the parsed footer and the lengths stay in memory: some 100 kB each


class UpstreamRow(NamedTuple):
    """Where a document comes from: the file as it was indexed, and the row in it, from 0."""

    url: str
    row: int


@dataclass(frozen=True)
class TextBlocks(Indexed):
    """A text source as the order reads it: see `loader.sources.base.Blocks`.

    Attributes:
        source: What was asked for.
        index: What its files were, and how many tokens they have.
        arrays: Its blocks, as `index_format.arrays_of` gives them.
        tokenizer: That of the index.
        at: Folder or URL where the index lies, under `key`.
    """

    source: TextSource
    index: Index
    arrays: Mapping[str, NDArray[Any]]
    tokenizer: Tokenizer
    at: str
    key: str
    _footers: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)
    _lengths: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)
    _warned: dict[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def identity(self) -> str:
        return f"text:{self.index.content}/{self.tokenizer.sha256[:16]}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.index.tokenizer.token_dtype)

    def read(self, block: int) -> Tokens:
        """Fetch, tokenize and verify. Raises StaleIndex, or CorruptInput where the file cannot even be decoded."""
        texts = [document for _, document in self._documents(block)]
        indexed, digest = self.digest(block).hex(), ""
        for backend in self._backends:
            tokens = self._encode(texts, backend)
            digest = block_digest(tokens.ids.data, tokens.counts)
            if digest == indexed:
                if backend is not self._backends[0]:
                    self._warn_slow(backend.name)
                return tokens
        file, rows = self._file(block), self._rows(block)
        raise self._stale(
            file,
            f"rows {rows.start:,} to {rows.stop - 1:,} of row group {self.arrays['row_group'][block]} give tokens of "
            f"digest {digest[:16]}, not {indexed[:16]} (or {REFERENCE} {self.tokenizer.reference.version} is not "
            f"{self.index.backend.reference_version}, which indexed it)",
        )

    def counts(self, block: int) -> NDArray[np.uint32]:
        """Tokens of each document of a block, from the index: nothing is read of the text."""
        number = int(self.arrays["file"][block])
        lengths = self._lengths.get(number)
        if lengths is None:
            table = self.index.files[number].lengths
            data = table.read(open_store(self.at), part_path(self.key, table))
            lengths = read_table(data, ["lengths"])["lengths"]
            _keep(self._lengths, number, lengths)
        first = int(np.searchsorted(self.arrays["file"], number))
        counts: NDArray[np.uint32] = lengths[block - first].values.to_numpy()
        return counts

    def origin(self, block: int, document: int) -> UpstreamRow:
        """Where document number `document` of a block comes from."""
        rows = np.setdiff1d(np.array(self._rows(block)), self.arrays["first_row"][block] + self._left_out(block))
        metadata, group = self.footer(int(self.arrays["file"][block])), int(self.arrays["row_group"][block])
        before = sum(metadata.row_group(earlier).num_rows for earlier in range(group))
        return UpstreamRow(self._file(block).url, before + int(rows[document]))

    # ---- texts

    def _file(self, block: int) -> IndexedFile:
        return self.index.files[int(self.arrays["file"][block])]

    def _rows(self, block: int) -> range:
        """The rows of a block, within its row group."""
        first = int(self.arrays["first_row"][block])
        return range(first, first + int(self.arrays["rows"][block]))

    def _left_out(self, block: int) -> NDArray[np.int64]:
        """Rows of the block, from 0, that are no documents."""
        low, high = self.arrays["left_out_at"][block : block + 2]
        rows: NDArray[np.int64] = self.arrays["left_out"][low:high]
        return rows

    def _documents(self, block: int) -> Iterator[tuple[int, Document]]:
        """(row within the row group, document) of all that the index has of a block."""
        file, rows, left_out = self._file(block), self._rows(block), set(self._left_out(block).tolist())
        rule = self._rule.model_copy(update={"id_field": None})
        with self._opened(int(self.arrays["file"][block])) as (opened, metadata):
            parquet = ParquetRows(opened, rule, file.path, file.url, metadata)
            group = int(self.arrays["row_group"][block])
            for row, item in zip(rows, parquet.read_group(group, rows.start, rows.stop), strict=True):
                if row - rows.start in left_out:
                    continue
                if isinstance(item, Reject):
                    raise self._stale(file, f"row {row:,} of row group {group} is no document now ({item.reason})")
                yield row, item

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[tuple[Any, Any]]:
        """A file and its footer, both as indexed."""
        file = self.index.files[number]
        with self._unchanged(file), process_fetcher(os.getpid()).open(self._locked(file)) as opened:
            yield opened, self.footer(number)

    def footer(self, number: int) -> Any:
        """The parsed footer of a file, after its digest was checked: of some damaged ones pyarrow aborts."""
        metadata = self._footers.get(number)
        if metadata is None:
            file = self.index.files[number]
            with self._unchanged(file), process_fetcher(os.getpid()).open(self._locked(file)) as opened:
                opened.seek(file.size_bytes - file.footer_bytes)
                data = opened.read(file.footer_bytes)
            if Footer.of(data) != Footer(file.footer_bytes, file.footer_digest):
                raise self._stale(file, "its footer has another digest")
            metadata = pq.read_metadata(pa.BufferReader(data))
            _keep(self._footers, number, metadata)
        return metadata

    @contextlib.contextmanager
    def _unchanged(self, file: IndexedFile) -> Iterator[None]:
        """What is read inside is of the file as indexed. Raises StaleIndex."""
        try:
            yield
        except InputChanged as error:
            raise self._stale(file, f"its {error.field} is {error.found!r}, it was {error.locked!r}") from None

    def _stale(self, file: IndexedFile, detail: str) -> StaleIndex:
        return StaleIndex(file.url, detail, self.source.command(self.at))

    def _locked(self, file: IndexedFile) -> LockedFile:
        return LockedFile(self.name, file.path, file.url, file.facts)

    @cached_property
    def _rule(self) -> TextRule:
        return self.source.recipe.sources()[0].text

    # ---- ids

    @cached_property
    def _backends(self) -> list[Backend]:
        """What indexed it, if it is installed, and the reference: the digest tells whether either is right."""
        backends: list[Backend] = []
        with contextlib.suppress(TokenizerError):
            backends.append(_backend(self.tokenizer, self.index.backend.backend))
        if self.index.backend.backend != REFERENCE:
            backends.append(self.tokenizer.reference)
        return backends

    def _warn_slow(self, name: str) -> None:
        """Once: every block costs a second encoding."""
        token = object()
        if self._warned.setdefault("slow", token) is token:  # threads come here at once: setdefault lets one through
            first = self._backends[0]
            LOG.warning(
                "text source %r: %s %s gives other tokens than the index has, %s gives them: install %s %s",
                self.name,
                first.name,
                first.version,
                name,
                first.name,
                self.index.backend.version,
            )

    def _encode(self, documents: list[Document], backend: Backend) -> Tokens:
        ids: list[NDArray[Any]] = [np.empty(0, self.dtype)]
        counts: list[NDArray[Any]] = [np.empty(0, np.uint32)]
        for batch in batches(documents):
            try:
                encoded = backend.encode([item.text for item in batch if isinstance(item, Document)])
            except TooLongToEncode as error:
                indexer = self.index.backend
                raise UserError(
                    f"{self.name}: {error} for {backend.name}, but it was indexed with {indexer.backend} "
                    f"{indexer.version}: install that"
                ) from None
            ids.append(encoded.ids.astype(self.dtype))
            counts.append(encoded.lengths.astype(np.uint32))
        return Tokens(np.concatenate(ids), np.concatenate(counts))


def _keep(by_file: dict[int, Any], number: int, value: Any) -> None:
    """Threads share the dict: an entry may go at any time."""
    if len(by_file) >= FILES_KEPT:
        by_file.clear()
    by_file[number] = value


@lru_cache(maxsize=1)
def process_fetcher(process: int) -> Fetcher:
    """One for each process id: connections do not survive a fork."""
    return Fetcher()


@lru_cache(maxsize=4)
def _backend(tokenizer: Tokenizer, name: str) -> Backend:
    """One for all sources that share a tokenizer."""
    return tokenizer.backend(name)
