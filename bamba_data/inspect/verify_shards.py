"""Is a shard what the tables say of it? By its footer alone, or by every byte, block, id and document of its body."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptShard, one_line
from bamba_data.format.holdout_candidates import LIMIT, Candidate
from bamba_data.format.identity import IdsDigest
from bamba_data.format.shard import BATCH_ROWS, Footer, ShardReader, Tokens, row_group_range
from bamba_data.inspect.shard_rows import ShardRows
from bamba_data.inspect.verify_masks import what_is_left
from bamba_data.inspect.verify_report import Fault
from bamba_data.storage.store import Store
from bamba_data.tokenization.round_trip import same_again
from bamba_data.tokenization.tokenizer import Tokenizer

SAMPLE_TOKENS = 10_000  # a longer document is not encoded again: the reference is slow


@dataclass
class ShardResult:
    """What was found in one shard. `undecided`: the paths of those whose sample did not encode to itself; `kept`: the
    documents of each input, (source, number of the input)."""

    faults: list[Fault] = field(default_factory=list)
    blocks: int = 0
    documents: int = 0
    tokens: int = 0
    bytes_read: int = 0
    reencoded: int = 0
    undecided: list[str] = field(default_factory=list)
    kept: Counter[tuple[str, int]] = field(default_factory=Counter)
    candidates: list[Candidate] = field(default_factory=list)


def check_footer(store: Store, shard: ShardRows) -> ShardResult:
    """Its size, its footer's digest, and that the row groups lie where the table of blocks says."""
    result, row = ShardResult(), shard.row
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
    _compare(result, shard, _row_groups(meta))
    result.documents, result.tokens = row["documents"], row["tokens"]
    return result


def _row_groups(meta: Any) -> list[tuple[int, int, int]]:
    """(documents, offset, bytes) of each."""
    groups = [meta.row_group(index) for index in range(meta.num_row_groups)]
    return [(group.num_rows, *row_group_range(group)) for group in groups]


def _is_footer(data: bytes, row: dict[str, Any]) -> bool:
    return Footer.of(data) == Footer(row["footer_bytes"], row["footer_digest"].hex())


def _compare(result: ShardResult, shard: ShardRows, groups: list[tuple[int, int, int]]) -> None:
    wanted = [(block["documents"], block["offset"], block["size_bytes"]) for block in shard.blocks]
    result.blocks = len(groups)
    if groups != wanted:
        result.faults.append(Fault(shard.row["path"], "its row groups are not the blocks that the manifest lists"))


def check_body(store: Store, shard: ShardRows, vocab_size: int, tokenizer: Tokenizer | None) -> ShardResult:
    """Everything in it; its first document is encoded again with `tokenizer`."""
    result = _check_body(store, shard, vocab_size, tokenizer)
    if shard.masks is not None and not result.faults:
        path = shard.row["path"]
        result.faults += [Fault(path, fault) for fault in what_is_left(store, path, shard.masks)]
    return result


def _check_body(store: Store, shard: ShardRows, vocab_size: int, tokenizer: Tokenizer | None) -> ShardResult:
    result, row, path = ShardResult(), shard.row, shard.row["path"]
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
        groups = _row_groups(reader.parquet.metadata)
        _compare(result, shard, groups)
        for number, block in enumerate(shard.blocks[: reader.blocks]):
            if block["documents"] != groups[number][0]:  # told above; what it would decode to, nobody knows
                continue
            _check_block(result, reader, row, number, block, vocab_size, tokenizer)
        if result.candidates != shard.candidates:
            result.faults.append(Fault(path, "the table of candidates does not list its documents with such ids"))
    except CorruptShard as error:
        result.faults.append(Fault(path, error.detail))
    return result


def _check_block(
    result: ShardResult,
    reader: ShardReader,
    row: dict[str, Any],
    number: int,
    block: dict[str, Any],
    vocab_size: int,
    tokenizer: Tokenizer | None,
) -> None:
    tokens, batches = _rows(reader, number, block["digest"].hex())
    if len(tokens.ids) != block["tokens"] or len(tokens.counts) != block["documents"]:
        raise CorruptShard(row["path"], f"block {number}: documents or tokens are not the manifest's")
    if len(tokens.ids) and int(tokens.ids.max()) >= vocab_size:
        raise CorruptShard(
            row["path"], f"block {number}: id {tokens.ids.max()} is beyond the vocabulary of {vocab_size}"
        )
    result.documents += len(tokens.counts)
    result.tokens += len(tokens.ids)
    first, named = 0, IdsDigest()
    for batch in batches:
        for file, documents in Counter(batch["file"].to_pylist()).items():
            result.kept[row["source"], row["first_file"] + file] += documents
        ids = batch["document_id"].cast(pa.binary()).to_pylist()
        result.candidates += [
            Candidate(number, document, int(tokens.counts[document]), hashed)
            for document, hashed in enumerate(map(xxh3_64_intdigest, ids), first)
            if hashed < LIMIT
        ]
        named.update_encoded(ids)
        first += batch.num_rows
    if "ids_digest" in block and named.digest() != block["ids_digest"]:
        raise CorruptShard(row["path"], f"block {number}: its document ids do not have the manifest's digest")
    if tokenizer is not None and number == 0:
        sample = tokens.ids[: int(tokens.counts[0])]
        if len(sample) <= SAMPLE_TOKENS:
            if same_again(tokenizer, sample.tolist()):
                result.reencoded += 1
            else:
                result.undecided.append(row["path"])


def _rows(reader: ShardReader, number: int, digest: str) -> tuple[Tokens, Iterable[pa.RecordBatch]]:
    """The tokens of a block, and its documents' inputs and ids: in one pass, where these are few and can be decoded."""
    if reader.documents(number) <= BATCH_ROWS:
        with contextlib.suppress(CorruptShard):  # which of its columns is damaged, two passes tell
            table = reader.table(number, ["tokens", "token_count", "file", "document_id"])
            lineage = table.select(["file", "document_id"]).combine_chunks()
            return reader.tokens_of(number, table, digest), lineage.to_batches()
    return reader.tokens(number, digest), reader.batches(number, ["file", "document_id"])
