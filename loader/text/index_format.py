"""The index of a text source: how many tokens every document and block of its parquet files has, but no tokens.

    <key>/index.json              what was indexed, by what tokenizer; totals; names of the tables by sha256
    <key>/blocks-<sha256>.parquet a row a block: file, row group, run of rows, documents, tokens, digest, rows left out
    <key>/parts/<name>.json       one file, done: what a killed run need not do again
    <key>/parts/<sha256>.parquet  its blocks, with the tokens of every document

<key> is a digest of what was asked for and the tokenizer's. A block is a run of rows of one row group with at least
`block_tokens` tokens; a tail of less than half joins the block before it. Its digest is that of a shard's block, over
the tokens: whoever tokenizes it later knows whether they are the same.
"""

import io
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import CorruptManifest, first_fault
from bamba_data.format.dataset import read_named
from bamba_data.format.manifest_entries import Account, CertificateEntry, Count, Sha256, TokenizerEntry
from bamba_data.format.tables import read_table
from bamba_data.storage.locked_file import Facts
from bamba_data.storage.store import Store

FORMAT: Literal["bamba-text-index/1"] = "bamba-text-index/1"
MAX_INDEX_BYTES = 256 << 20

_CANDIDATE = pa.struct([("document", pa.uint32()), ("tokens", pa.uint32()), ("hash", pa.uint64())])
BLOCKS = pa.schema(
    [
        pa.field("row_group", pa.uint32(), nullable=False),
        pa.field("first_row", pa.uint64(), nullable=False),  # within the row group
        pa.field("rows", pa.uint32(), nullable=False),
        pa.field("documents", pa.uint32(), nullable=False),
        pa.field("tokens", pa.uint64(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
        pa.field("left_out", pa.list_(pa.uint32()), nullable=False),  # rows of the run that are no documents
        pa.field("candidates", pa.list_(_CANDIDATE), nullable=False),
    ]
)
PART = BLOCKS.append(pa.field("lengths", pa.list_(pa.uint32()), nullable=False))  # tokens of each document
TABLE = BLOCKS.insert(0, pa.field("file", pa.uint32(), nullable=False))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ignored_types=(cached_property,))


class Table(_Strict):
    """A parquet file that is named by its sha256."""

    sha256: Sha256
    size_bytes: Count

    def read(self, store: Store, path: str) -> bytes:
        """Its bytes, checked. Raises CorruptManifest."""
        return read_named(store, path, self.sha256, self.size_bytes)


class IndexedFile(_Strict):
    """A file as it was when it was indexed. `footer_digest` is xxh3-128 over the end of the file."""

    path: str
    url: str
    size_bytes: Count
    etag: str | None
    sha256: Sha256 | None
    footer_bytes: Count
    footer_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    rows: Count
    blocks: Count
    account: Account
    lengths: Table

    @property
    def facts(self) -> Facts:
        """What must still hold of the file when its rows are read. Of a local one not its time: a copy is as good."""
        etag = None if self.etag is not None and self.etag.startswith("mtime:") else self.etag
        return Facts(self.size_bytes, etag, self.sha256)


class Index(_Strict):
    """`content` is of every block's tokens and boundaries and of the candidates: the identity of the source."""

    format: Literal["bamba-text-index/1"]
    source: dict[str, Any]
    tokenizer: TokenizerEntry
    backend: CertificateEntry
    block_tokens: Count
    files: list[IndexedFile]
    totals: Account
    blocks: Table
    content: Sha256

    @property
    def summary(self) -> str:
        """In a line: what is in the source, and what was left out."""
        totals, blocks = self.totals, sum(file.blocks for file in self.files)
        return (
            f"{totals.kept:,} documents, {totals.tokens:,} tokens, {blocks:,} blocks; "
            f"{totals.read - totals.kept:,} records left out; index {self.content[:16]}"
        )


# ---- reading


def index_path(key: str) -> str:
    return f"{key}/index.json"


def blocks_path(key: str, table: Table) -> str:
    return f"{key}/blocks-{table.sha256}.parquet"


def part_path(key: str, table: Table) -> str:
    return f"{key}/parts/{table.sha256}.parquet"


def read_index(store: Store, key: str) -> Index | None:
    """The index of this key; None if there is none."""
    path = index_path(key)
    try:
        data = store.read_range(path, 0, MAX_INDEX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        return Index.model_validate(unsealed(data, path))
    except ValidationError as error:
        raise CorruptManifest(path, f"field {first_fault(error)}") from None


def read_arrays(store: Store, key: str, index: Index) -> dict[str, NDArray[Any]]:
    """The blocks of an index, as `arrays_of` has them, checked against all that the index says of them."""
    path = blocks_path(key, index.blocks)
    data = index.blocks.read(store, path)
    try:
        table = read_table(data)
    except (pa.ArrowException, OSError) as error:
        raise CorruptManifest(path, f"is not readable parquet ({error})") from None
    if not table.schema.equals(TABLE):
        raise CorruptManifest(path, "does not have the columns of a table of blocks")
    arrays = arrays_of(table)
    totals = (int(arrays["documents"].sum()), int(arrays["tokens"].sum()))
    if totals != (index.totals.kept, index.totals.tokens) or content_of(arrays) != index.content:
        raise CorruptManifest(path, "the blocks are not what the index says of them")
    return arrays


def to_parquet(table: pa.Table) -> bytes:
    """A parquet file with page checksums. Equal tables give equal bytes, whose sha256 names them."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", write_page_checksum=True, row_group_size=1 << 16)
    return out.getvalue()


def arrays_of(table: pa.Table) -> dict[str, NDArray[Any]]:
    """The columns of a table of blocks.

    Returns:
        By name an array of [blocks], int64 but `digest`, which has 2 uint64 a block. Of lists, all elements end to end,
        and of `left_out` where each block's begin and the end (`left_out_at`, [blocks + 1]). Of candidates
        `candidate_block`, `candidate_document` (in the block), `candidate_tokens` and `candidate_hash`.
    """
    plain = ("file", "row_group", "first_row", "rows", "documents", "tokens")
    arrays: dict[str, NDArray[Any]] = {name: table[name].to_numpy().astype("<i8") for name in plain}
    arrays["digest"] = np.frombuffer(b"".join(table["digest"].to_pylist()), "<u8")
    left_out = table["left_out"].combine_chunks()
    arrays["left_out"] = left_out.flatten().to_numpy().astype("<i8")
    arrays["left_out_at"] = _begins(left_out)
    candidates = table["candidates"].combine_chunks()
    flat, begins = candidates.flatten(), _begins(candidates)
    arrays["candidate_block"] = np.repeat(np.arange(len(table)), np.diff(begins))
    for name, dtype in (("document", "<i8"), ("tokens", "<i8"), ("hash", "<u8")):
        arrays[f"candidate_{name}"] = flat.field(name).to_numpy().astype(dtype)
    return arrays


def _begins(lists: Any) -> NDArray[np.int64]:
    counts = np.array(lists.value_lengths().to_numpy(zero_copy_only=False), np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def rows_decoded_a_row(arrays: Mapping[str, NDArray[Any]]) -> float:
    """How many rows are decoded for each that is served. A row group is decoded from its start, so that a group of n
    blocks costs (n + 1) / 2."""
    ends = arrays["first_row"] + arrays["rows"]
    return float(ends.sum() / max(1, arrays["rows"].sum()))


def content_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of all that decides tokens and hold-out: counts, digests and candidates of every block, in order."""
    hashed = sha256()
    candidates = ("candidate_block", "candidate_document", "candidate_tokens", "candidate_hash")
    for name in ("documents", "tokens", "digest", *candidates):
        hashed.update(f"{name} {len(arrays[name])}\n".encode() + arrays[name].tobytes())
    return hashed.hexdigest()


# ---- JSON that vouches for itself: nothing else names its bytes


def sealed(value: BaseModel) -> bytes:
    """The JSON of a record, with its own digest."""
    fields = value.model_dump(mode="json")
    return canonical_json.dumps({"seal": canonical_json.digest(fields), "value": fields})


def unsealed(data: bytes, path: str) -> Any:
    """The fields of what `sealed` wrote. Raises CorruptManifest."""
    raw = canonical_json.loads(data, path, MAX_INDEX_BYTES)
    if not isinstance(raw, dict) or canonical_json.digest(raw.get("value")) != raw.get("seal"):
        raise CorruptManifest(path, "does not have the digest that it states")
    return raw["value"]
