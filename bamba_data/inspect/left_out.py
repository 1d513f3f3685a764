"""What became of a record upstream that is no document of a version: the reason, and the version that left it out.

Where the version has dead letters of its row, these say it. Else the input is read again, and the record judged as the
build judged it: by the form of the corpus, `where`, `transform`, and the rules of `bad_input`. What was dropped later
is found by the masks of the versions on the way from the one that brought the input, also where a compaction has
written the shards anew.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from bamba_data.canonical_json import sha256
from bamba_data.document import Document, Reject
from bamba_data.errors import BambaError, CorruptShard, NoSuchDocument, UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.lineage import ancestors, parents_of
from bamba_data.format.masks import unpack
from bamba_data.format.tables import read_table
from bamba_data.format.version_marks import known
from bamba_data.format.versions import published
from bamba_data.inspect.upstream import Upstream, UpstreamInput
from bamba_data.tokenization.dedup import SeenIds
from bamba_data.tokenization.encode import Encoder
from bamba_data.tokenization.tokenizer import Tokenizer

Row = tuple[str, int]  # shard path, row in it


@dataclass(frozen=True)
class Departure:
    """The version that dropped a document: its command with the arguments, its number (None where no version of the
    place has this manifest any more) and the digest of its manifest."""

    command: str
    arguments: dict[str, str]
    version: int | None
    manifest: str

    def __str__(self) -> str:
        what = ", ".join(f"{name} {value[:60]}" for name, value in self.arguments.items() if value)
        return f"by `{self.command}` ({what}) of version {self.version or '?'} ({self.manifest[:16]})"


@dataclass(frozen=True)
class LeftOut:
    """A record that is no document of the version. `reason` is one of the ledger's, `action` what became of it, and
    `version` the one that brought its input (None where no version of the place has that manifest any more)."""

    source: str
    file: str
    url: str
    row: int
    document_id: str | None
    reason: str
    detail: str
    action: str
    version: int | None
    manifest: str
    text: str | None


def departure(dataset: Dataset, row: Row) -> Departure | None:
    """Which version dropped a row of a shard; None if the document is part of the dataset."""
    if not is_dropped(dataset, row):
        return None
    left = dataset
    while before := next((one for one in parents_of(left) if _names(one, row[0]) and is_dropped(one, row)), None):
        left = before
    derived = left.manifest.derived
    assert derived is not None
    digest = left.manifest.digest
    return Departure(derived.command, derived.arguments, number_of(dataset, digest), digest)


def is_dropped(dataset: Dataset, row: Row) -> bool:
    """Whether a row of a shard is masked."""
    path, number = row
    shard = dataset.shards["path"].to_list().index(path)
    before = 0
    for block, documents in dataset.blocks.filter(pl.col("shard") == shard).select("block", "documents").iter_rows():
        if number < before + documents:
            here = (pl.col("shard") == shard) & (pl.col("block") == block)
            masks = dataset.masks.filter(here)["removed"].to_list()
            return bool(masks) and bool(unpack(masks[0], documents)[number - before])
        before += documents
    return False


def earlier_rows(dataset: Dataset, find: Callable[[Dataset], list[Row]]) -> tuple[Dataset, list[Row]]:
    """Rows that only shards of versions before have: those versions' dataset, and the rows; else none. What a sweep has
    taken is passed over."""
    now = set(dataset.shards["path"])
    for one in ancestors(dataset):
        with contextlib.suppress(NoSuchDocument, UserError, CorruptShard):
            if not now.issuperset(one.shards["path"]) and (rows := find(one)):
                return one, rows
    return dataset, []


def number_of(dataset: Dataset, digest: str) -> int | None:
    """The first version of the place that has this manifest."""
    for number in known(dataset.store).numbers:
        try:
            if published(dataset.store, number).manifest == digest:
                return number
        except BambaError:
            continue
    return None


def left_out(
    dataset: Dataset, tokenizer: Tokenizer, upstream: Upstream, file: Mapping[str, Any], row: int
) -> LeftOut | None:
    """Why an upstream record is no document.

    Args:
        dataset: Of which it is none: whoever asks has looked for it in the shards.
        tokenizer: The dataset's.
        upstream: Where inputs are read.
        file: The input's row of the table of files.
        row: Of the record.

    Returns:
        None if nothing speaks against it: the recipe would keep it.

    Raises:
        UserError: The input was left out as a whole, has no such row, or a transform's source is not at hand.
    """
    key = f"{file['source']}/{file['path']}"
    if file["quarantined"]:
        raise UserError(f"{key}: the whole input was left out, by quarantine")
    opened = upstream.input(file)
    said = _letter_of(dataset, file, row)
    record = opened.record(row)
    if record is None:
        raise UserError(f"{key}: has no row {row:,}")
    if said is None:
        said = _judged(opened, record, tokenizer)
    return None if said is None else _told(dataset, opened, file, record, *said)


def find_left_out(
    dataset: Dataset, tokenizer: Tokenizer, upstream: Upstream, source: str, document_id: str
) -> Iterator[LeftOut]:
    """The same of every record with this id in the inputs of a source that left records out: all of these are read."""
    lost = (pl.col("source") == source) & (pl.col("dropped") + pl.col("dead_lettered") > 0)
    for file in dataset.files.filter(lost & ~pl.col("quarantined")).iter_rows(named=True):
        opened = upstream.input(file)
        for record in opened.records():
            if isinstance(record, Document) and record.id == document_id:
                said = _letter_of(dataset, file, record.row) or _judged(opened, record, tokenizer)
                if said is not None:
                    yield _told(dataset, opened, file, record, *said)


def _told(
    dataset: Dataset,
    opened: UpstreamInput,
    file: Mapping[str, Any],
    record: Document | Reject,
    reason: str,
    detail: str,
) -> LeftOut:
    digest = _brought_by(dataset, file)
    sound = record if isinstance(record, Document) else None
    return LeftOut(
        source=file["source"],
        file=file["path"],
        url=file["url"],
        row=record.row,
        document_id=sound.id if sound else None,
        reason=reason,
        detail=detail,
        action=opened.rules.action(reason),
        version=number_of(dataset, digest),
        manifest=digest,
        text=sound.text if sound else None,
    )


def _judged(opened: UpstreamInput, record: Document | Reject, tokenizer: Tokenizer) -> tuple[str, str] | None:
    made = opened.as_built(record)
    if isinstance(made, Document):
        encoder = Encoder(tokenizer.reference, tokenizer.vocab_size, opened.rules, SeenIds())
        (outcome,) = encoder.encode([made])
        if not isinstance(outcome, Reject):
            return None
        made = outcome
    return made.reason, made.detail


def _letter_of(dataset: Dataset, file: Mapping[str, Any], row: int) -> tuple[str, str] | None:
    """Reason and detail of the dead letter of a row, where there is one."""
    if not file["dead_lettered"]:
        return None
    of_source = dataset.dead_letters.filter(pl.col("source") == file["source"])
    for path, digest in of_source.select("path", "sha256").iter_rows():
        try:
            data = dataset.files_store.read(path)
        except FileNotFoundError:
            raise CorruptShard(path, "is missing") from None
        if sha256(data) != digest:
            raise CorruptShard(path, "its sha256 is not the manifest's")
        letters = pl.from_arrow(read_table(data, ["path", "row", "reason", "detail"]))
        assert isinstance(letters, pl.DataFrame)
        mine = letters.filter((pl.col("path") == file["path"]) & (pl.col("row") == row))
        if len(mine):
            return mine["reason"][0], mine["detail"][0]
    return None


def _brought_by(dataset: Dataset, file: Mapping[str, Any]) -> str:
    """The digest of the oldest manifest in the lineage that has the input."""
    oldest = dataset
    for one in ancestors(dataset):
        here = (pl.col("source") == file["source"]) & (pl.col("path") == file["path"])
        if len(one.files.filter(here)):
            oldest = one
    return oldest.manifest.digest


def _names(dataset: Dataset, path: str) -> bool:
    return path in dataset.shards["path"]
