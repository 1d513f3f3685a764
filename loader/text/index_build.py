"""Making the index of a text source: every file read once, tokenized, counted, and the tokens thrown away.

What is left out, and why, is what a build of shards would leave out, by the same code.
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
class Job:
    """What all files of a source share. `at` is the folder or URL of indexes, `key` the name of this one."""

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

    def fresh(self) -> "Job":
        """A copy that has opened nothing yet, to be sent to another process."""
        return replace(self, tokenizer=Tokenizer(self.tokenizer.data))

    def index(self, rows: ParquetRows | None, path: str) -> FileIndexer:
        """With the backend; with the reference, where they differ. A file without a byte has no `rows`."""
        for backend in (self.encoder, self.tokenizer.reference):
            try:
                made = FileIndexer(path, self.rules, self.block_tokens, self.tokenizer, backend)
                if rows is not None:
                    made.run(rows)
                return made
            except BackendDiffers as difference:
                if backend.name == REFERENCE:
                    raise
                LOG.warning("%s: %s; it is indexed with %s", path, difference, REFERENCE)
        raise AssertionError("unreachable")


def index_file(job: Job, file: LockedFile, fetcher: Fetcher, scratch: Path) -> IndexedFile:
    """Index one file, or take over what an earlier run has made of it; then its part lies in the store."""
    if (found := finished(job, file)) is not None:
        return found
    with fetcher.stage(file, scratch) as staged, staged.path.open("rb") as opened:
        size = staged.path.stat().st_size
        if size == 0 and job.rules.empty_files != "keep":
            raise CorruptInput(file.url, EMPTY, 0)
        rows = ParquetRows(opened, job.text, file.path, file.url) if size else None
        made = job.index(rows, file.path)
        footer = _footer(opened, size)
    data = _parquet(pa.Table.from_pylist(made.blocks, schema=PART))
    lengths = Table(sha256=canonical_json.sha256(data), size_bytes=len(data))
    job.store.put(part_path(job.key, lengths), data)
    found = IndexedFile(
        path=file.path,
        url=file.url,
        size_bytes=size,
        etag=file.facts.etag,
        sha256=staged.sha256,
        footer_bytes=footer.size_bytes,
        footer_digest=footer.digest,
        rows=made.ledger.read,
        blocks=len(made.blocks),
        account=Account.of(made.ledger),
        lengths=lengths,
    )
    job.store.put(_record_path(job, file), sealed(found))
    return found


def _record_path(job: Job, file: LockedFile) -> str:
    facts = file.facts
    of = [file.path, file.url, facts.size_bytes, facts.etag, facts.sha256, job.encoder.version]
    return f"{job.key}/parts/{canonical_json.digest(of)[:32]}.json"


def finished(job: Job, file: LockedFile) -> IndexedFile | None:
    """What an earlier run has made of a file, if the record of it and its part are whole."""
    path = _record_path(job, file)
    try:
        found = IndexedFile.model_validate(unsealed(job.store.read(path), path))
        found.lengths.read(job.store, part_path(job.key, found.lengths))
    except (FileNotFoundError, CorruptManifest, ValidationError):
        return None  # it is made anew
    return found


def _footer(file: Any, size: int) -> Footer:
    file.seek(max(0, size - 8))
    footer_bytes = min(size, int.from_bytes(file.read(4), "little") + 8)
    file.seek(size - footer_bytes)
    return Footer.of(file.read(footer_bytes))


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", write_page_checksum=True, row_group_size=1 << 16)
    return out.getvalue()


# ---- all files

#: How all files are indexed, in any order; gives what was made of each, in theirs.
Each = Callable[[Job, Sequence[LockedFile]], Iterator[IndexedFile]]


def make_index(
    source: TextSource,
    at: str,
    fetcher: Fetcher,
    each: Each,
    told: Callable[[IndexedFile], None] = lambda file: None,
    certificate: Certificate | None = None,
) -> Index:
    """Index a text source into the folder or s3:// URL `at`. `told` hears of every file, in order. What an earlier run
    finished of files that are the same is not done again. Without the `certificate` of a backend one is earned first,
    which takes seconds."""
    recipe = source.recipe
    tokenizer = lock.load_tokenizer(recipe, Path(), fetcher)
    locked = lock.resolve(recipe, Path(), fetcher)
    (place,) = locked.sources.values()
    if certificate is None:
        _, certificate, passed_over = choose(tokenizer, recipe.tokenizer.backend)
        for line in passed_over:
            LOG.warning("%s", line)
    key = source.key(locked.revisions.get(source.name), tokenizer.sha256)
    job = Job(at, key, place.text, recipe.bad_input, source.block_tokens, tokenizer, certificate.backend)
    left_out = quarantined(recipe.bad_input.quarantine, (file.key for file in locked.files))
    files = [file for file in locked.files if file.key not in left_out]
    refuse_empty(files, recipe.bad_input)
    done: list[IndexedFile] = []
    for one in each(job, files):
        done.append(one)
        told(one)
    said = place.model_dump(mode="json", include={"location", "text"}) | {"revision": locked.revisions.get(source.name)}
    return _put_together(job, done, said, CertificateEntry(**certificate.to_json()), recipe.tokenizer.url)


def in_processes(count: int, scratch: Path, fetcher: Fetcher) -> Each:
    """So many at once on this machine; one is this process, which uses `fetcher`."""

    def each(job: Job, files: Sequence[LockedFile]) -> Iterator[IndexedFile]:
        if min(count, len(files)) < 2:
            yield from (index_file(job, file, fetcher, scratch) for file in files)
            return
        begin = (job.fresh(), scratch)
        with ProcessPoolExecutor(min(count, len(files)), get_context("spawn"), _Worker.begin, begin) as executor:
            yield from executor.map(_Worker.run, files)

    return each


class _Worker:
    """A process of the pool: its tools are made once."""

    job: Job
    fetcher: Fetcher
    scratch: Path

    @classmethod
    def begin(cls, job: Job, scratch: Path) -> None:
        cls.job, cls.fetcher, cls.scratch = job, Fetcher(), scratch

    @classmethod
    def run(cls, file: LockedFile) -> IndexedFile:
        return index_file(cls.job, file, cls.fetcher, cls.scratch)


def _put_together(
    job: Job, files: Sequence[IndexedFile], said: dict[str, Any], certificate: CertificateEntry, tokenizer_url: str
) -> Index:
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
        source=said,
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
        told = reasons(totals.dropped) or "its files have no rows"
        raise NoDocuments(
            f"no document in {totals.read:,} rows ({told}): no index was made. If that is as it should be: "
            '--rules \'{"empty_sources": "keep"}\''
        )
