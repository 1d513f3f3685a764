"""Lineage: from a row of a shard to the line of an upstream file and back, with proof that it is the same text.

The upstream file is read anew, so the answer is evidence: its text, encoded again, gives the ids that are stored.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from bamba_data.document import Document, Reject
from bamba_data.errors import CorruptManifest, CorruptShard, NoSuchDocument, UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.shard import ShardReader
from bamba_data.inspect.left_out import Departure, Row, departure
from bamba_data.inspect.upstream import UNREADABLE, Upstream
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.tokenizer import Tokenizer, TooLongToEncode


@dataclass(frozen=True)
class Trace:
    """`text` is what the upstream file has, None where it cannot be read; `same`, whether the ids of what the recipe
    makes of it are those stored, None where that cannot be told. `why` says why not. `dropped` says which version
    dropped the document: it lies in the shard, but is no longer part of the dataset. `transform` is the function that
    made the text of which `same` speaks, where there is one."""

    source: str
    shard: str
    shard_row: int
    block: int
    document_id: str
    tokens: list[int]
    file: str
    url: str
    sha256: str | None
    row: int
    decoded: str
    text: str | None
    same: bool | None
    why: str
    dropped: Departure | None = None
    transform: str | None = None


class _Found(NamedTuple):
    """The text upstream, what the recipe makes of it, and why one of them is not to be had."""

    text: str | None
    made: str | None
    why: str
    transform: str | None = None


def locate(dataset: Dataset, place: str) -> Row:
    """`SHARD:ROW`, where SHARD is a path, or a part of one that only one shard has."""
    name, colon, number = place.rpartition(":")
    if not colon or not number.isdecimal():
        raise UserError(f"{place!r}: expected SHARD:ROW, for instance {_example(dataset)}:0")
    paths = [path for path in dataset.shards["path"] if name == path] or [
        path for path in dataset.shards["path"] if name in path
    ]
    if len(paths) != 1:
        raise UserError(
            f"{name!r} names {len(paths)} of the {len(dataset.shards)} shards; name one, such as {_example(dataset)}"
        )
    return paths[0], int(number)


def find_document(dataset: Dataset, place: str) -> list[Row]:
    """`SOURCE:ID`: every row that has this document id (ids are unique within a file, not always beyond)."""
    source, colon, document = place.partition(":")
    if not colon or dataset.manifest.source(source) is None:
        names = ", ".join(entry.name for entry in dataset.manifest.sources)
        raise UserError(f"{place!r}: expected SOURCE:ID, where SOURCE is one of {names}")
    rows: list[Row] = []
    for path in dataset.shards.filter(pl.col("source") == source)["path"]:
        with _open(dataset, path) as reader:
            row = 0
            for block in range(reader.blocks):
                for batch in reader.batches(block, ["document_id"]):
                    ids = batch["document_id"].to_pylist()
                    rows += [(path, row + n) for n, document_id in enumerate(ids) if document_id == document]
                    row += len(ids)
    if not rows:
        account = dataset.manifest.source(source).account  # type: ignore[union-attr]
        lost = ", ".join(f"{count:,} {reason}" for reason, count in (account.dropped | account.dead_lettered).items())
        left = f"Records of this source that are none: {lost}. To look for it there, say --upstream" if lost else ""
        raise NoSuchDocument(f"{place!r}: no document of source {source} has this id. {left}".rstrip(". "))
    return rows


def find_row(dataset: Dataset, source: str, path: str, row: int) -> list[Row]:
    """The rows of shards that an upstream record became: one, or none. Raises UserError for an unknown input."""
    file = input_of(dataset, source, path)["file"]
    shards = dataset.shards.filter(pl.col("source") == source).sort("first_file")
    # A shard has files from its first one on, up to the first one of the next unit.
    begins = shards.filter(pl.col("first_file") <= file)["first_file"].max()
    rows: list[Row] = []
    for shard, first in shards.filter(pl.col("first_file") == begins).select("path", "first_file").iter_rows():
        with _open(dataset, shard) as reader:
            before = 0
            for block in range(reader.blocks):
                table = reader.table(block, ["file", "row"])
                pairs = zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True)
                rows += [(shard, before + n) for n, pair in enumerate(pairs) if pair == (file - first, row)]
                before += table.num_rows
    return rows


def input_of(dataset: Dataset, source: str, path: str) -> dict[str, Any]:
    """The row of the table of files of an input. Raises UserError if there is none."""
    of_source = dataset.files.filter(pl.col("source") == source)
    mine = of_source.filter(pl.col("path") == path)
    if not len(mine):
        have = ", ".join(f"{source}/{name}" for name in of_source["path"].head(3)) or ", ".join(
            entry.name for entry in dataset.manifest.sources
        )
        raise UserError(f"{source}/{path}: no input of the dataset is called so (there are {have})")
    return mine.row(0, named=True)


def trace(
    dataset: Dataset,
    row: Row,
    fetcher: Fetcher,
    moved: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
    code: Path | None = None,
) -> Trace:
    """Everything about one row. `moved` maps a source to the base URL where its files lie now; `tokenizer` is the
    dataset's, where it is loaded already; `code` is the folder of the sources of transforms, which may then be run."""
    path, number = row
    if unknown := [name for name in moved or {} if dataset.manifest.source(name) is None]:
        raise UserError(f"--base: {unknown} are no sources of this dataset")
    entry = _only(dataset.shards.filter(pl.col("path") == path), f"the table of shards has no {path}")
    tokenizer = tokenizer or Tokenizer(dataset.tokenizer_json())
    block, ids, values = _read_row(dataset, path, number)
    file = _file_of(dataset, entry, values["file"], number)
    decoded = tokenizer.decode(ids)
    found = _upstream_text(Upstream(dataset, fetcher, moved or {}, code), file, values["row"])
    same, why = None, found.why
    if found.made is not None:
        try:
            same = tokenizer.reference.encode([found.made]).ids.tolist() == ids
        except TooLongToEncode as error:
            why = f"the reference cannot encode it: {error}"
    return Trace(
        source=entry["source"],
        shard=path,
        shard_row=number,
        block=block,
        document_id=values["document_id"],
        tokens=ids,
        file=file["path"],
        url=file["url"],
        sha256=file["sha256"],
        row=values["row"],
        decoded=decoded,
        text=found.text,
        same=same,
        why=why,
        dropped=departure(dataset, row),
        transform=found.transform,
    )


def _only(frame: pl.DataFrame, missing: str) -> dict[str, Any]:
    if not len(frame):
        raise CorruptManifest("tables", missing)
    return frame.row(0, named=True)


def _file_of(dataset: Dataset, shard: Mapping[str, Any], file: int, row: int) -> dict[str, Any]:
    """The input that a row of a shard calls `file`: it counts from the first input of the shard's unit."""
    number, source = shard["first_file"] + file, shard["source"]
    return _only(
        dataset.files.filter((pl.col("source") == source) & (pl.col("file") == number)),
        f"the table of files has no input {number} of source {source}, which row {row} of {shard['path']} comes from",
    )


@contextmanager
def _open(dataset: Dataset, path: str) -> Iterator[ShardReader]:
    try:
        with dataset.files_store.open(path) as file:
            yield ShardReader(file, path)
    except FileNotFoundError:
        raise CorruptShard(path, "is missing") from None


def _read_row(dataset: Dataset, path: str, number: int) -> tuple[int, list[int], dict[str, Any]]:
    shard = dataset.shards["path"].to_list().index(path)
    digests = dataset.blocks.filter(pl.col("shard") == shard).sort("block")["digest"].to_list()
    with _open(dataset, path) as reader:
        if reader.blocks != len(digests):
            raise CorruptShard(path, f"has {reader.blocks} blocks, the manifest lists {len(digests)}")
        before = 0
        for block in range(reader.blocks):
            rows = reader.documents(block)
            if number < before + rows:
                index = number - before
                ids = reader.tokens(block, digests[block].hex()).documents()[index].tolist()
                table = reader.table(block, ["document_id", "file", "row"])
                return block, ids, table.slice(index, 1).to_pylist()[0]
            before += rows
    raise UserError(f"{path} has rows 0 to {before - 1}, there is no row {number}")


def _upstream_text(upstream: Upstream, file: Mapping[str, Any], row: int) -> _Found:
    """The text of the row as the upstream file has it and as the recipe makes it, or why it cannot be had."""
    try:
        opened = upstream.input(file)
        item = opened.record(row)
        if not isinstance(item, Document):
            return _Found(None, None, "the upstream file has no document at this row: it is not the file that was read")
        if opened.why_none:
            return _Found(item.text, None, opened.why_none)
        made = opened.as_built(item)
    except UNREADABLE as error:
        return _Found(None, None, f"the upstream file cannot be read: {error}")
    if isinstance(made, Reject):
        return _Found(item.text, None, f"the recipe leaves it out now: {made.reason} {made.detail}".rstrip())
    return _Found(item.text, made.text, "", opened.transform.rule.function if opened.transform else None)


def _example(dataset: Dataset) -> str:
    return str(dataset.shards["path"][0]) if len(dataset.shards) else "dataset=NAME/00000-000-….parquet"
