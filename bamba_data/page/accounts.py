"""The ledger for a page: which inputs lost records and why; and dead letters with their raw bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.errors import BambaError, CorruptShard, one_line
from bamba_data.format.dataset import Dataset

MAX_FILES = 100
LETTER_FILES = 3  # of a source: those with the fewest bytes, of which all is read
MAX_LETTER_BYTES = 64 << 20
LETTERS_A_REASON = 5
MAX_LETTERS = 400
RAW_BYTES = 512  # of each record
MAX_DETAIL_CHARS = 500
_COLUMNS = ["path", "row", "offset", "reason", "detail", "raw", "raw_bytes", "raw_sha256"]


@dataclass(frozen=True)
class FileAccount:
    """An input that lost records, or was left out. `reasons` are (action, reason, count)."""

    source: str
    path: str
    read: int
    kept: int
    dropped: int
    dead_lettered: int
    tokens: int
    quarantined: bool
    complete: bool
    reasons: list[tuple[str, str, int]]


@dataclass(frozen=True)
class Files:
    """The inputs with the largest losses, of `of` that lost any, among `all` inputs."""

    shown: list[FileAccount]
    of: int
    all: int


@dataclass(frozen=True)
class Letter:
    """A record that could not become a document. `raw` is the hex of its first bytes, `raw_bytes` how many it has;
    `offset` is -1 where the form of the input has none."""

    source: str
    path: str
    row: int
    offset: int
    reason: str
    detail: str
    raw: str
    raw_bytes: int
    raw_sha256: str


@dataclass(frozen=True)
class Letters:
    """Some of `of` dead letters. `faults` are files of them that could not be read."""

    shown: list[Letter]
    of: int
    faults: list[str]


def files(dataset: Dataset) -> Files:
    """The inputs that lost most records, the largest loss first."""
    lost = pl.col("dropped") + pl.col("dead_lettered")
    losing = dataset.files.filter((lost > 0) | pl.col("quarantined") | ~pl.col("complete"))
    largest = losing.sort([lost, "source", "file"], descending=[True, False, False]).head(MAX_FILES)
    shown = [
        FileAccount(
            **{name: row[name] for name in ("source", "path", "read", "kept", "dropped", "dead_lettered", "tokens")},
            quarantined=row["quarantined"],
            complete=row["complete"],
            reasons=[(one["action"], one["reason"], one["count"]) for one in row["reasons"] or []],
        )
        for row in largest.iter_rows(named=True)
    ]
    return Files(shown, len(losing), len(dataset.files))


def letters(dataset: Dataset, sources: Sequence[str]) -> Letters:
    """Up to LETTERS_A_REASON of each source and reason, from the smallest files of them."""
    table = dataset.dead_letters
    shown: list[Letter] = []
    faults: list[str] = []
    for source in sources:
        of_source = table.filter(pl.col("source") == source).sort("size_bytes", "path").head(LETTER_FILES)
        taken: dict[str, int] = {}
        for entry in of_source.iter_rows(named=True):
            try:
                records = _read(dataset, entry)
            except BambaError as error:
                faults.append(str(error))
                continue
            for record in records:
                reason = str(record["reason"])
                if taken.get(reason, 0) < LETTERS_A_REASON and len(shown) < MAX_LETTERS:
                    taken[reason] = taken.get(reason, 0) + 1
                    shown.append(_letter(source, record))
    return Letters(shown, int(table["records"].sum()), faults)


def _letter(source: str, record: dict[str, Any]) -> Letter:
    return Letter(
        source=source,
        path=record["path"],
        row=record["row"],
        offset=record["offset"],
        reason=record["reason"],
        detail=record["detail"][:MAX_DETAIL_CHARS],
        raw=record["raw"][:RAW_BYTES].hex(),
        raw_bytes=record["raw_bytes"],
        raw_sha256=record["raw_sha256"],
    )


def _read(dataset: Dataset, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a file of dead letters, at most so many of each reason that a page shows."""
    path, size = entry["path"], entry["size_bytes"]
    if size > MAX_LETTER_BYTES:
        raise CorruptShard(path, f"has {size:,} bytes: a page reads files of dead letters up to {MAX_LETTER_BYTES:,}")
    try:
        data = dataset.files_store.read_range(path, 0, size + 1)
    except FileNotFoundError:
        raise CorruptShard(path, "is missing") from None
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CorruptShard(path, "does not have the sha256 that the manifest lists")
    chosen: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches(64, columns=_COLUMNS, use_threads=False):
            for record in batch.to_pylist():
                if taken.get(record["reason"], 0) < LETTERS_A_REASON:
                    taken[record["reason"]] = taken.get(record["reason"], 0) + 1
                    chosen.append(record)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptShard(path, f"is no readable file of dead letters ({one_line(error)})") from None
    return chosen
