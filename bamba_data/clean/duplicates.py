"""The documents whose token ids another document of the dataset has, too: all of them but the first.

The first is that of the source that comes first (as they are given, else by name), then of the first file (as the table
of files has them), then of the lowest row. Two steps, each of
tasks that can run anywhere, in any order, twice:

    scan    a group of shards → its records, cut into ranges by the digest (token_records.py)
    match   a range of all groups → the documents of it that leave, as a piece of the list

What is finished lies in a folder of work, under a name made of all that decides it; so a killed job goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import Unfinished
from bamba_data.format.dataset import Dataset
from bamba_data.format.masks import removed_in
from bamba_data.storage.store import open_store

from .reading import BLOCK_ROW_BYTES, grouped, named, opened, shards_of, wanted_sources, write_pieces
from .token_records import RECORD, later_ones, load, records_of, save

GROUP_DOCUMENTS = 4_000_000  # of a scan: 128 MB of records
RANGE_BYTES = 128 << 20  # of the records of a match, on average
TASK_BYTES = 1 << 30  # what a task may need beside the tables: measured 808 MiB (docs/log.md)
_FORM = "bamba-duplicates/1"


@dataclass(frozen=True)
class DuplicatesJob:
    """All that decides which documents leave, and where the work lies.

    Attributes:
        url: place of the dataset.
        manifest: digest of the version.
        sources: those that are looked at, the first has precedence.
        groups: the shards of each scan, by their rows in the table of shards.
        ranges: how many matches there are.
        work: URL of a folder that every machine reaches.
        task_bytes: memory that a task may need, with the tables of the dataset.
    """

    url: str
    manifest: str
    sources: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    ranges: int
    work: str
    task_bytes: int = TASK_BYTES

    @cached_property
    def folder(self) -> str:
        """Below `work`."""
        decides = [_FORM, self.manifest, list(self.sources), [list(group) for group in self.groups], self.ranges]
        return f"duplicates-{canonical_json.sha256(canonical_json.dumps(decides))[:32]}"

    def scanned(self, group: int) -> str:
        return f"{self.folder}/scan-{group:06d}"

    def piece(self, number: int) -> str:
        return f"{self.folder}/range-{number:06d}.parquet"

    def finished(self) -> set[str]:
        """The paths of what earlier attempts finished."""
        return {entry.path for entry in open_store(self.work).list(self.folder)}


def duplicates_job(
    dataset: Dataset,
    sources: Sequence[str],
    work: str,
    group_documents: int = GROUP_DOCUMENTS,
    range_bytes: int = RANGE_BYTES,
) -> DuplicatesJob:
    """What is to be done.

    Args:
        dataset: which version.
        sources: look at these alone, the first has precedence; without any, at all, by their names.
        work: URL of a folder for what is finished.
        group_documents: a scan has more only if a single shard has.
        range_bytes: of the records of a match.

    Raises:
        UserError: a source is not of the dataset or named twice; the version is of the first format.
    """
    wanted = wanted_sources(dataset, sources)
    shards = shards_of(dataset, wanted)
    ranges = max(1, -(-int(shards["documents"].sum()) * RECORD.itemsize // range_bytes))
    return DuplicatesJob(
        dataset.store.url,
        dataset.manifest.digest,
        wanted,
        grouped(shards, "documents", group_documents),
        ranges,
        open_store(work).url,
        TASK_BYTES + BLOCK_ROW_BYTES * len(dataset.blocks),
    )


def scan(job: DuplicatesJob, group: int) -> int:
    """Write the records of a group of shards; how many documents they are. Raises CorruptShard."""
    dataset = opened(job.url, job.manifest)
    removed = removed_in(dataset.masks, dataset.blocks)
    ranks = {name: rank for rank, name in enumerate(job.sources)}
    shards = shards_of(dataset, job.sources).filter(pl.col("shard").is_in(list(job.groups[group])))
    parts = [records_of(dataset, row, ranks[row["source"]], removed) for row in shards.iter_rows(named=True)]
    records = np.concatenate(parts)
    save(records, job.ranges, open_store(job.work), job.scanned(group))
    return len(records)


def match(job: DuplicatesJob, number: int) -> int:
    """Write the piece of the list of a range, of all scans; how many documents leave."""
    store = open_store(job.work)
    records = [load(number, job.ranges, store, job.scanned(group)) for group in range(len(job.groups))]
    later = later_ones(np.concatenate([np.empty(0, RECORD), *records]))
    stands = pl.DataFrame({"rank": later["source"].copy(), "file": later["file"].copy(), "row": later["row"].copy()})
    piece = named(stands, opened(job.url, job.manifest), job.sources)
    with store.writer(job.piece(number)) as file:
        piece.write_parquet(file)
    return len(piece)


@dataclass(frozen=True)
class Duplicates:
    """How many documents each source would lose."""

    by_source: dict[str, int]

    @property
    def documents(self) -> int:
        return sum(self.by_source.values())


def write_list(job: DuplicatesJob, out: Path) -> Duplicates:
    """Put the pieces together, one after the other, as one parquet file at `out`, and remove the work.

    Nothing is written where there are no duplicates: a list of nothing is none.

    Raises:
        Unfinished: a range was not matched yet.
    """
    store = open_store(job.work)
    missing = {job.piece(number) for number in range(job.ranges)} - job.finished()
    if missing:
        raise Unfinished(f"{len(missing):,} of {job.ranges:,} ranges are not matched yet; run the same command again")

    def pieces() -> Iterator[pl.DataFrame]:
        for number in range(job.ranges):
            with store.open(job.piece(number)) as file:
                yield pl.read_parquet(file)

    counts = write_pieces(pieces(), job.sources, out)
    for path in sorted(job.finished()):
        store.delete(path)
    return Duplicates(counts)
