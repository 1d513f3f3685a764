"""Lineage: from a row of a shard to the line of an upstream file and back, with proof that it is the same text.

The upstream file is read anew, so the answer is evidence: its text, encoded again, gives the ids that are stored.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from bamba_data.document import Document
from bamba_data.errors import BambaError, CorruptManifest, CorruptShard, UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import lock_path
from bamba_data.format.masks import unpack
from bamba_data.format.shard import ShardReader
from bamba_data.locking import lock as locks
from bamba_data.recipe import BadInput
from bamba_data.sources import jsonl
from bamba_data.sources.base import Source
from bamba_data.sources.parquet import ParquetRows
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.tokenization.tokenizer import Tokenizer, TooLongToEncode

Row = tuple[str, int]  # shard path, row in it


@dataclass(frozen=True)
class Trace:
    """`text` is what the upstream file has, None where it cannot be read; `same`, whether its ids are those stored,
    None where that cannot be told. `why` says why not. `dropped` says that the document lies in the shard, but is no
    longer part of this version."""

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
    dropped: bool = False


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
        raise UserError(f"{place!r}: no document of source {source} has this id (was it dropped or dead-lettered?)")
    return rows


def trace(
    dataset: Dataset,
    row: Row,
    fetcher: Fetcher,
    moved: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Trace:
    """Everything about one row. `moved` maps a source to the base URL where its files lie now; `tokenizer` is the
    dataset's, where it is loaded already."""
    path, number = row
    if unknown := [name for name in moved or {} if dataset.manifest.source(name) is None]:
        raise UserError(f"--base: {unknown} are no sources of this dataset")
    entry = _only(dataset.shards.filter(pl.col("path") == path), f"the table of shards has no {path}")
    tokenizer = tokenizer or Tokenizer(dataset.tokenizer_json())
    block, ids, values = _read_row(dataset, path, number)
    file = _file_of(dataset, entry, values["file"], number)
    decoded = tokenizer.decode(ids)
    text, why = _upstream_text(dataset, file, values["row"], fetcher, moved or {})
    same = None
    if text is not None:
        try:
            same = tokenizer.reference.encode([text]).ids.tolist() == ids
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
        text=text,
        same=same,
        why=why,
        dropped=_is_dropped(dataset, path, number),
    )


def _is_dropped(dataset: Dataset, path: str, row: int) -> bool:
    """Whether a row of a shard is masked."""
    shard = dataset.shards["path"].to_list().index(path)
    before = 0
    for block, documents in dataset.blocks.filter(pl.col("shard") == shard).select("block", "documents").iter_rows():
        if row < before + documents:
            here = (pl.col("shard") == shard) & (pl.col("block") == block)
            masks = dataset.masks.filter(here)["removed"].to_list()
            return bool(masks) and bool(unpack(masks[0], documents)[row - before])
        before += documents
    return False


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
        with dataset.store.open(path) as file:
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


def _upstream_text(
    dataset: Dataset, file: dict[str, Any], row: int, fetcher: Fetcher, moved: Mapping[str, str]
) -> tuple[str | None, str]:
    """The text of the row as the upstream file has it, or why it cannot be had."""
    source = dataset.manifest.source(file["source"])
    assert source is not None
    try:
        lock = locks.loads(dataset.lock_json(), lock_path(dataset.version.lock))
        of_source = lock.by_source.get(source.name, [])
        locked = next((candidate for candidate in of_source if candidate.path == file["path"]), None)
        if locked is None:
            return None, f"the lock of this version does not list {source.name}/{file['path']}"
        facts = Facts(file["size_bytes"], locked.facts.etag, file["sha256"])
        url = f"{moved[source.name].rstrip('/')}/{file['path']}" if source.name in moved else locked.url
        if source.name in moved:
            facts = facts._replace(etag=None)
        described = lock.sources[source.name]
        if described.form in ("megatron", "datatrove"):
            return None, f"it was imported from token files, which hold no text: document {row:,} of their index"
        here = LockedFile(source.name, file["path"], url, facts)
        item = _read_upstream(here, described, row, dataset, fetcher)
    except (BambaError, OSError) as error:
        return None, f"the upstream file cannot be read: {error}"
    if item is None:
        return None, "the upstream file has no document at this row: it is not the file that was read"
    return item.text, ""


def _read_upstream(file: LockedFile, source: Source, row: int, dataset: Dataset, fetcher: Fetcher) -> Document | None:
    with ExitStack() as stack:
        if source.form == "parquet":
            opened = stack.enter_context(fetcher.open(file))
            item = next(ParquetRows(opened, source.text, file.path, file.url).read(row), None)
            return item if isinstance(item, Document) else None
        rules = BadInput.model_validate(dataset.manifest.recipe["bad_input"])
        stream = stack.enter_context(fetcher.stream(file))
        parse = jsonl.parser(source.text, file.path, rules.max_line_bytes)
        for line in jsonl.lines(stream.chunks(), file.url, source, rules):
            if line.row == row:
                item = parse(line)
                return item if isinstance(item, Document) else None
    return None


def _example(dataset: Dataset) -> str:
    return str(dataset.shards["path"][0]) if len(dataset.shards) else "dataset=NAME/00000-000-….parquet"
