"""The index of a text source, made: every file read once, tokenized, counted, and the tokens thrown away.

A file that is done has a record and a part in the store, so that a run that was killed goes on where it was, and files
that are added later cost only themselves. What is left out, and why, is what a build of shards would leave out, by the
same code.
"""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from bamba_data import canonical_json
from bamba_data.document import Ledger
from bamba_data.error_budget import is_exceeded, over_budget, reasons, sufficient_rate
from bamba_data.errors import BudgetExceeded, CorruptInput, CorruptManifest, NoDocuments
from bamba_data.format.manifest import Account, CertificateEntry, TokenizerEntry
from bamba_data.format.shard import Footer
from bamba_data.format.tables import read_table
from bamba_data.locking import lock
from bamba_data.locking.exclusions import quarantined, refuse_empty
from bamba_data.recipe import BadInput
from bamba_data.sources.base import TextRule
from bamba_data.sources.decompress import EMPTY
from bamba_data.sources.parquet import ParquetRows
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.encode import BackendDiffers
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer

from .index_file import FileIndexer
from .index_format import (
    FORMAT,
    PART,
    TABLE,
    Index,
    IndexedFile,
    Table,
    arrays_of,
    blocks_path,
    content_of,
    index_path,
    part_path,
    sealed,
    unsealed,
)
from .spec import TextSource

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
    data = _parquet(pa.Table.from_pylist(indexer.blocks, schema=PART))
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


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", write_page_checksum=True, row_group_size=1 << 16)
    return out.getvalue()


# ---- all files

#: Indexes all files of a job, in any order or at once, and gives what became of each in theirs.
IndexFiles = Callable[[IndexJob, Sequence[LockedFile]], Iterator[IndexedFile]]


def make_index(
    source: TextSource,
    at: str,
    fetcher: Fetcher,
    index_files: IndexFiles,
    on_file: Callable[[IndexedFile], None] = lambda file: None,
    certificate: Certificate | None = None,
) -> Index:
    """Index a text source. What an earlier run finished of files that are the same is not done again.

    Args:
        source: What to index.
        at: Folder or s3:// URL of indexes.
        fetcher: For the list of files and the tokenizer.
        index_files: How the files are read: `in_processes`, or by a cluster.
        on_file: Called for every file that is done, in their order.
        certificate: That a backend gives the reference's ids. Without it one is earned first, which takes 6 s.

    Raises:
        BudgetExceeded: More bad rows than the rules allow.
        NoDocuments: No row is a document, and the rules do not keep empty sources.
    """
    recipe = source.recipe
    tokenizer = lock.load_tokenizer(recipe, Path(), fetcher)
    locked = lock.resolve(recipe, Path(), fetcher)
    (place,) = locked.sources.values()
    if certificate is None:
        _, certificate, passed_over = choose(tokenizer, recipe.tokenizer.backend)
        for line in passed_over:
            LOG.warning("%s", line)
    key = source.key(locked.revisions.get(source.name), tokenizer.sha256)
    job = IndexJob(at, key, place.text, recipe.bad_input, source.block_tokens, tokenizer, certificate.backend)
    left_out = quarantined(recipe.bad_input.quarantine, (file.key for file in locked.files))
    files = [file for file in locked.files if file.key not in left_out]
    refuse_empty(files, recipe.bad_input)
    indexed: list[IndexedFile] = []
    for file in index_files(job, files):
        indexed.append(file)
        on_file(file)
    asked = place.model_dump(mode="json", include={"location", "text"})
    asked["revision"] = locked.revisions.get(source.name)
    return _put_together(job, indexed, asked, CertificateEntry(**certificate.to_json()), recipe.tokenizer.url)


def in_processes(count: int, scratch: Path, fetcher: Fetcher) -> IndexFiles:
    """`count` files at once, each in a process of this machine; with one it is this process, which uses `fetcher`."""

    def index_files(job: IndexJob, files: Sequence[LockedFile]) -> Iterator[IndexedFile]:
        if min(count, len(files)) < 2:
            yield from (index_file(job, file, fetcher, scratch) for file in files)
            return
        begin = (job.fresh(), scratch)
        with ProcessPoolExecutor(min(count, len(files)), get_context("spawn"), _Worker.begin, begin) as executor:
            yield from executor.map(_Worker.run, files)

    return index_files


class _Worker:
    """A process of the pool: its tools are made once."""

    job: IndexJob
    fetcher: Fetcher
    scratch: Path

    @classmethod
    def begin(cls, job: IndexJob, scratch: Path) -> None:
        cls.job, cls.fetcher, cls.scratch = job, Fetcher(), scratch

    @classmethod
    def run(cls, file: LockedFile) -> IndexedFile:
        return index_file(cls.job, file, cls.fetcher, cls.scratch)


def _put_together(
    job: IndexJob,
    files: Sequence[IndexedFile],
    asked: dict[str, Any],
    certificate: CertificateEntry,
    tokenizer_url: str,
) -> Index:
    """The blocks of all files in one table, then the index that names it: what an index names is there."""
    totals = Ledger()
    tables: list[pa.Table] = []
    for number, file in enumerate(files):
        totals.add(_ledger(file.account))
        data = file.lengths.read(job.store, part_path(job.key, file.lengths))
        part = read_table(data).drop_columns("lengths")
        tables.append(part.add_column(0, TABLE.field("file"), pa.array([number] * len(part), pa.uint32())).cast(TABLE))
    _check_budget(totals, job.rules)
    whole = pa.concat_tables(tables) if tables else TABLE.empty_table()
    data = _parquet(whole)
    blocks = Table(sha256=canonical_json.sha256(data), size_bytes=len(data))
    job.store.put(blocks_path(job.key, blocks), data)
    index = Index(
        format=FORMAT,
        source=asked,
        tokenizer=TokenizerEntry(
            url=tokenizer_url,
            sha256=job.tokenizer.sha256,
            vocab_size=job.tokenizer.vocab_size,
            token_dtype=job.tokenizer.dtype.str,  # type: ignore[arg-type]
        ),
        backend=certificate,
        block_tokens=job.block_tokens,
        files=list(files),
        totals=Account.of(totals),
        blocks=blocks,
        content=content_of(arrays_of(whole)),
    )
    job.store.put(index_path(job.key), sealed(index))
    return index


def _ledger(account: Account) -> Ledger:
    return Ledger(**account.model_dump())  # which copies the dicts


def _check_budget(totals: Ledger, rules: BadInput) -> None:
    if is_exceeded(totals.bad, totals.read, rules.max_bad_rate):
        ways = "correct the source or its files"
        if totals.kept:
            rate = sufficient_rate(totals.bad, totals.read)
            ways = (
                f"set a policy, or allow so many with --rules '{{\"max_bad_rate\": {rate}}}' (in Python: "
                f"rules=BadInput(max_bad_rate={rate}))"
            )
        raise BudgetExceeded(
            f"{over_budget(totals, rules.max_bad_rate)}. No index was made, finished files are kept; {ways}"
        )
    if totals.kept == 0 and rules.empty_sources != "keep":
        why = reasons(totals.dropped) or "its files have no rows"
        raise NoDocuments(
            f"no document in {totals.read:,} rows ({why}): no index was made. If that is as it should be: "
            '--rules \'{"empty_sources": "keep"}\''
        )
