"""Is the dataset what its manifest says? Every fault is named, none hides another.

Without bodies: manifest, tables, lock and tokenizer against their digests, sums and accounts, every shard there, of
its size, with the footer that the tables say. In full: every byte against sha256, every block against its digest,
every id against the vocabulary, every document against the account of its input and the table of candidates, and a
sample decoded and encoded again (ids_proof.py: where decoding loses, the upstream text is encoded).
Objects that this version does not name are no fault of it, only counted: other
versions need them, or `sweep` finds them.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptManifest, CorruptShard, TokenizerError, UnsafePath, one_line
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.holdout_candidates import LIMIT, Candidate, id_hash
from bamba_data.format.identity import IdsDigest
from bamba_data.format.layout import DEAD_LETTERS, shard_folder
from bamba_data.format.shard import Footer, ShardReader, row_group_range
from bamba_data.format.tables import SCHEMAS
from bamba_data.inspect.ids_proof import prove
from bamba_data.inspect.verify_masks import what_is_left
from bamba_data.inspect.verify_report import Fault
from bamba_data.inspect.verify_report import Report as Report
from bamba_data.inspect.verify_tables import check_tables
from bamba_data.storage.store import Entry, Store
from bamba_data.tokenization.round_trip import same_again
from bamba_data.tokenization.tokenizer import Tokenizer

THREADS = 16
SAMPLE_TOKENS = 10_000  # a longer document is not encoded again: the reference is slow


def verify(
    url: str,
    version: int | str | None = None,
    full: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check the dataset at `url`. What cannot even be opened raises; all else is in the report.

    `tick(done, total)` is called after every shard.
    """
    return check(open_dataset(url, version), full, tick)


def check(
    dataset: Dataset,
    full: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
    only: Collection[str] | None = None,
) -> Report:
    """The same of a dataset that is open, be it published yet or not. With `only`, no other shards than these, by their
    paths, are looked at: the others were verified when they were published."""
    report = Report(dataset.manifest.digest, dataset.version.number, full)
    are_readable = _check_tables_readable(dataset, report)
    _check_lock(dataset, report)
    tokenizer = _check_tokenizer(dataset, report)
    if are_readable:
        check_tables(dataset, report)
        if only is None:
            _check_objects(dataset, report)
        _check_shards(dataset, report, tokenizer, tick, only)
        if full:
            _check_dead_letters(dataset, report)
    return report


def _check_tables_readable(dataset: Dataset, report: Report) -> bool:
    for name in (*SCHEMAS, "masks"):
        try:
            getattr(dataset, name)
        except CorruptManifest as error:
            report.fault(error.where, error.detail)
        except UnsafePath as error:
            report.fault(f"table {name}", str(error))
    return not report.faults


def _check_objects(dataset: Dataset, report: Report) -> None:
    """Everything is there, with its size: by listing, a thousand objects a request."""
    there: dict[str, Entry] = {}
    for source in dataset.manifest.sources:
        there |= {entry.path: entry for entry in dataset.store.list(shard_folder(source.name))}
    if len(dataset.dead_letters):
        there |= {entry.path: entry for entry in dataset.store.list(DEAD_LETTERS)}
    for frame in (dataset.shards, dataset.dead_letters):
        for path, size in zip(frame["path"], frame["size_bytes"], strict=True):
            if path not in there:
                report.fault(path, "is missing")
            elif there[path].size_bytes != size:
                report.fault(path, f"has {there[path].size_bytes:,} bytes, the manifest says {size:,}")
    listed = {*dataset.shards["path"], *dataset.dead_letters["path"]}
    report.unlisted = sum(path not in listed for path in there)


def _check_lock(dataset: Dataset, report: Report) -> None:
    try:
        dataset.lock_json()
    except CorruptManifest as error:
        report.fault(error.where, error.detail)


def _check_dead_letters(dataset: Dataset, report: Report) -> None:
    """Whole files against their sha256: their rows are for people, and the tables count them."""
    for path, digest in zip(dataset.dead_letters["path"], dataset.dead_letters["sha256"], strict=True):
        if path in {fault.where for fault in report.faults}:  # missing, or of another size
            continue
        with contextlib.suppress(OSError):
            data = dataset.store.read(path)
            report.bytes_read += len(data)
            if sha256(data) != digest:
                report.fault(path, "its sha256 is not the manifest's")


def _check_tokenizer(dataset: Dataset, report: Report) -> Tokenizer | None:
    """The tokenizer, where it is the one and can be used."""
    entry = dataset.manifest.tokenizer
    try:
        tokenizer = Tokenizer(dataset.tokenizer_json())
        if tokenizer.vocab_size != entry.vocab_size or tokenizer.dtype.str != entry.token_dtype:
            report.fault("tokenizer", f"has {tokenizer.vocab_size:,} ids, the manifest says {entry.vocab_size:,}")
            return None
        return tokenizer
    except (CorruptManifest, TokenizerError) as error:
        report.fault("tokenizer", str(error))
        return None


def _check_shards(
    dataset: Dataset,
    report: Report,
    tokenizer: Tokenizer | None,
    tick: Callable[[int, int], None],
    only: Collection[str] | None,
) -> None:
    looked_at = dataset.shards.with_row_index("number")
    if only is not None:
        looked_at = looked_at.filter(pl.col("path").is_in(list(only)))
    mine = dataset.blocks.filter(pl.col("shard").is_in(looked_at["number"].to_list()))
    blocks = mine.partition_by("shard", as_dict=True) if len(mine) else {}
    candidates = dataset.candidates.partition_by("shard", as_dict=True) if len(dataset.candidates) else {}
    masks = dataset.masks.partition_by("shard", as_dict=True) if len(dataset.masks) else {}
    missing = {fault.where for fault in report.faults}
    kept: Counter[tuple[str, int]] = Counter()
    if not dataset.manifest.backend.certificates:
        tokenizer = None  # ids that were imported: nobody said that the reference gives them
    undecided: list[str] = []
    numbered = [(row.pop("number"), row) for row in looked_at.iter_rows(named=True) if row["path"] not in missing]

    def check(job: tuple[int, dict[str, Any]]) -> "_ShardResult":
        number, row = job
        expected = list(blocks[(number,)].sort("block").iter_rows(named=True)) if (number,) in blocks else []
        if report.full:
            mine = candidates[(number,)].select(Candidate._fields).rows() if (number,) in candidates else []
            result = _check_body(dataset.store, row, expected, mine, dataset.manifest.tokenizer.vocab_size, tokenizer)
            if (number,) in masks and not result.faults:
                left = what_is_left(dataset.store, row["path"], masks[(number,)])
                result.faults += [Fault(row["path"], fault) for fault in left]
            return result
        return _check_footer(dataset.store, row, expected)

    with ThreadPoolExecutor(THREADS if not report.full else 4) as pool:
        for done, result in enumerate(pool.map(check, numbered), 1):
            report.faults.extend(result.faults)
            report.shards += 1
            report.blocks += result.blocks
            report.documents += result.documents
            report.tokens += result.tokens
            report.bytes_read += result.bytes_read
            report.reencoded += result.reencoded
            undecided += result.undecided
            kept.update(result.kept)
            tick(done, len(numbered))
    if undecided and tokenizer is not None:
        proof = prove(dataset, tokenizer, undecided)
        for path, detail in proof.faults.items():
            report.fault(path, detail)
        report.reencoded += proof.proven + len(proof.faults)
        report.from_upstream, report.unproven = proof.proven, proof.unproven
    if report.full and not report.faults:
        for row in dataset.files.iter_rows(named=True):
            found_rows = kept[(row["source"], row["file"])]
            # What was dropped may be gone from the shards, too.
            if found_rows > row["kept"] if dataset.manifest.derived else found_rows != row["kept"]:
                report.fault(
                    f"input {row['source']}/{row['path']}",
                    f"{found_rows:,} documents in shards, kept {row['kept']:,}",
                )


@dataclass
class _ShardResult:
    faults: list[Fault] = field(default_factory=list)
    blocks: int = 0
    documents: int = 0
    tokens: int = 0
    bytes_read: int = 0
    reencoded: int = 0
    undecided: list[str] = field(default_factory=list)
    kept: Counter[tuple[str, int]] = field(default_factory=Counter)
    candidates: list[Candidate] = field(default_factory=list)


def _check_footer(store: Store, row: dict[str, Any], expected: list[dict[str, Any]]) -> _ShardResult:
    result = _ShardResult()
    try:
        size = row["size_bytes"]
        tail = store.read_range(row["path"], max(0, size - row["footer_bytes"]), size)
        result.bytes_read = len(tail)
        if not _is_footer(tail, row):
            result.faults.append(Fault(row["path"], "its footer does not have the manifest's digest"))
            return result
        meta = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError, ValueError) as error:
        result.faults.append(Fault(row["path"], f"its footer cannot be read ({one_line(error)})"))
        return result
    _compare(
        result,
        row,
        expected,
        [(meta.row_group(i).num_rows, *row_group_range(meta.row_group(i))) for i in range(meta.num_row_groups)],
    )
    result.documents, result.tokens = row["documents"], row["tokens"]
    return result


def _is_footer(data: bytes, row: dict[str, Any]) -> bool:
    return Footer.of(data) == Footer(row["footer_bytes"], row["footer_digest"].hex())


def _compare(
    result: _ShardResult, row: dict[str, Any], expected: list[dict[str, Any]], groups: list[tuple[int, int, int]]
) -> None:
    wanted = [(block["documents"], block["offset"], block["size_bytes"]) for block in expected]
    result.blocks = len(groups)
    if groups != wanted:
        result.faults.append(Fault(row["path"], "its row groups are not the blocks that the manifest lists"))


def _check_body(
    store: Store,
    row: dict[str, Any],
    expected: list[dict[str, Any]],
    candidates: list[tuple[int, ...]],
    vocab_size: int,
    tokenizer: Tokenizer | None,
) -> _ShardResult:
    result = _ShardResult()
    path = row["path"]
    try:
        data = store.read(path)
    except OSError as error:
        result.faults.append(Fault(path, f"cannot be read ({one_line(error)})"))
        return result
    result.bytes_read = len(data)
    if sha256(data) != row["sha256"]:
        result.faults.append(Fault(path, "its sha256 is not the manifest's"))
    if not _is_footer(data, row):
        if not result.faults:
            result.faults.append(Fault(path, "its footer does not have the manifest's digest"))
        return result
    try:
        reader = ShardReader(io.BytesIO(data), path)
        meta = reader.parquet.metadata
        groups = [(meta.row_group(i).num_rows, *row_group_range(meta.row_group(i))) for i in range(reader.blocks)]
        _compare(result, row, expected, groups)
        for number, block in enumerate(expected[: reader.blocks]):
            if block["documents"] != groups[number][0]:  # told above; what it would decode to, nobody knows
                continue
            _check_block(result, reader, row, number, block, vocab_size, tokenizer)
        if result.candidates != candidates:
            result.faults.append(Fault(path, "the table of candidates does not list its documents with such ids"))
    except CorruptShard as error:
        result.faults.append(Fault(path, error.detail))
    return result


def _check_block(
    result: _ShardResult,
    reader: ShardReader,
    row: dict[str, Any],
    number: int,
    block: dict[str, Any],
    vocab_size: int,
    tokenizer: Tokenizer | None,
) -> None:
    tokens = reader.tokens(number, block["digest"].hex())
    if len(tokens.ids) != block["tokens"] or len(tokens.counts) != block["documents"]:
        raise CorruptShard(row["path"], f"block {number}: documents or tokens are not the manifest's")
    if len(tokens.ids) and int(tokens.ids.max()) >= vocab_size:
        raise CorruptShard(
            row["path"], f"block {number}: id {tokens.ids.max()} is beyond the vocabulary of {vocab_size}"
        )
    result.documents += len(tokens.counts)
    result.tokens += len(tokens.ids)
    first, named = 0, IdsDigest()
    for batch in reader.batches(number, ["file", "document_id"]):
        lineage = batch.to_pydict()
        result.kept.update((row["source"], row["first_file"] + file) for file in lineage["file"])
        result.candidates += [
            Candidate(number, document, int(tokens.counts[document]), hashed)
            for document, name in enumerate(lineage["document_id"], first)
            if (hashed := id_hash(name)) < LIMIT
        ]
        named.update(lineage["document_id"])
        first += batch.num_rows
    if "ids_digest" in block and named.digest() != block["ids_digest"]:
        raise CorruptShard(row["path"], f"block {number}: its document ids do not have the manifest's digest")
    if tokenizer is not None and number == 0:
        ids = tokens.documents()[0]
        if len(ids) <= SAMPLE_TOKENS:
            if same_again(tokenizer, ids.tolist()):
                result.reencoded += 1
            else:
                result.undecided.append(row["path"])
