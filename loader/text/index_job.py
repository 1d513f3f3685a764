"""One file of a text source, indexed: what all files share, and what becomes of each, once and for all runs.

A file that is done has a record and a part in the store, so that a run that was killed goes on where it was, and files
that are added later cost only themselves.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import CorruptInput, CorruptManifest
from bamba_data.format.manifest_entries import Account
from bamba_data.format.shard import Footer
from bamba_data.recipe import BadInput
from bamba_data.sources.base import TextRule
from bamba_data.sources.decompress import EMPTY
from bamba_data.sources.parquet import ParquetRows
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.encode import BackendDiffers
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer

from .index_file import FileIndexer
from .index_format import PART, IndexedFile, Table, part_path, sealed, to_parquet, unsealed

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexJob:
    """What all files of a source share: where the index goes, and how a file becomes blocks.

    Attributes:
        at: Folder or URL of indexes; `key` names this one in it.
        text: Which columns are the text and the id.
        rules: Which texts are left out.
        block_tokens: Tokens of a block, at least.
        backend: Name of the tokenizer's backend whose ids are proven to be the reference's.
    """

    at: str
    key: str
    text: TextRule
    rules: BadInput
    block_tokens: int
    tokenizer: Tokenizer
    backend: str

    @cached_property
    def store(self) -> Store:
        return open_store(self.at)

    @cached_property
    def encoder(self) -> Backend:
        return self.tokenizer.backend(self.backend)

    def fresh(self) -> "IndexJob":
        """A copy that has opened nothing yet, to be sent to another process."""
        return replace(self, tokenizer=Tokenizer(self.tokenizer.data))

    def index(self, rows: ParquetRows | None, path: str) -> FileIndexer:
        """The blocks of a file: by the backend, or by the reference where a sample of both differs.

        `rows` is None for a file without a byte.
        """
        for backend in (self.encoder, self.tokenizer.reference):
            try:
                indexer = FileIndexer(path, self.rules, self.block_tokens, self.tokenizer, backend)
                if rows is not None:
                    indexer.run(rows)
                return indexer
            except BackendDiffers as difference:
                if backend.name == REFERENCE:
                    raise
                LOG.warning("%s: %s; it is indexed with %s", path, difference, REFERENCE)
        raise AssertionError("unreachable")


def index_file(job: IndexJob, file: LockedFile, fetcher: Fetcher, scratch: Path) -> IndexedFile:
    """Index one file, or take over what an earlier run has made of it; then its part lies in the store.

    Raises:
        CorruptInput: The file cannot be decoded, or is empty where the rules do not keep empty files.
        HopelessInput: So many of its first rows are bad that to read on would only count more.
    """
    if (finished := finished_file(job, file)) is not None:
        return finished
    with fetcher.stage(file, scratch) as staged, staged.path.open("rb") as opened:
        size = staged.path.stat().st_size
        if size == 0 and job.rules.empty_files != "keep":
            raise CorruptInput(file.url, EMPTY, 0)
        rows = ParquetRows(opened, job.text, file.path, file.url) if size else None
        indexer = job.index(rows, file.path)
        footer = _footer(opened, size)
    data = to_parquet(pa.Table.from_pylist(indexer.blocks, schema=PART))
    lengths = Table(sha256=canonical_json.sha256(data), size_bytes=len(data))
    job.store.put(part_path(job.key, lengths), data)
    indexed = IndexedFile(
        path=file.path,
        url=file.url,
        size_bytes=size,
        etag=file.facts.etag,
        sha256=staged.sha256,
        footer_bytes=footer.size_bytes,
        footer_digest=footer.digest,
        rows=indexer.ledger.read,
        blocks=len(indexer.blocks),
        account=Account.of(indexer.ledger),
        lengths=lengths,
    )
    job.store.put(_record_path(job, file), sealed(indexed))
    return indexed


def _record_path(job: IndexJob, file: LockedFile) -> str:
    """Named by all that decides what the file becomes: a file that changed has another record."""
    facts = file.facts
    identity = [file.path, file.url, facts.size_bytes, facts.etag, facts.sha256, job.encoder.version]
    return f"{job.key}/parts/{canonical_json.digest(identity)[:32]}.json"


def finished_file(job: IndexJob, file: LockedFile) -> IndexedFile | None:
    """What an earlier run has made of a file, if the record of it and its part are whole; else it is made anew."""
    path = _record_path(job, file)
    try:
        indexed = IndexedFile.model_validate(unsealed(job.store.read(path), path))
        indexed.lengths.read(job.store, part_path(job.key, indexed.lengths))
    except (FileNotFoundError, CorruptManifest, ValidationError):
        return None
    return indexed


def _footer(file: Any, size: int) -> Footer:
    """The end of a parquet file: metadata, their length in 4 bytes, and the magic number in 4."""
    file.seek(max(0, size - 8))
    footer_bytes = min(size, int.from_bytes(file.read(4), "little") + 8)
    file.seek(size - footer_bytes)
    return Footer.of(file.read(footer_bytes))
