"""The index of a text source, made: every file read once, tokenized, counted, and the tokens thrown away.

What is left out, and why, is what a build of shards would leave out, by the same code.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from bamba_data import canonical_json
from bamba_data.document import Ledger
from bamba_data.error_budget import is_exceeded, over_budget, reasons, sufficient_rate
from bamba_data.errors import BudgetExceeded, NoDocuments
from bamba_data.format.manifest_entries import Account, CertificateEntry, TokenizerEntry
from bamba_data.format.tables import read_table
from bamba_data.locking import lock
from bamba_data.locking.exclusions import quarantined, refuse_empty
from bamba_data.recipe import BadInput
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.tokenization.conformance import Certificate, choose

from .index_format import (
    FORMAT,
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
    to_parquet,
)
from .index_job import IndexJob, index_file
from .spec import TextSource

LOG = logging.getLogger(__name__)

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
    data = to_parquet(whole)
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
