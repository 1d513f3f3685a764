"""Which form the token column of a shard should have: bytes a token, write and block-read speed, on real text.

    python -m benchmarks.shard_format [--tokenizer FILE] CORPUS_FILE...

Every candidate writes the same documents in the same blocks, and reads every block back to a flat array of ids;
best of the rounds, candidates interleaved, one thread. The read of the form that we chose goes through
bamba_data.format.shard.ShardReader with digests, as `ours`.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.document import Document
from bamba_data.format.shard import ShardReader, ShardWriter
from bamba_data.sources import jsonl
from bamba_data.sources.base import TextRule
from bamba_data.sources.decompress import inflate
from bamba_data.sources.lines import read_lines
from bamba_data.sources.parquet import ParquetRows
from bamba_data.tokenization.tokenizer import Tokenizer
from benchmarks.measure import machine

BLOCK_TOKENS = 1 << 18
DEFAULT = Path(__file__).parent.parent / "bamba_data" / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"


@dataclass(frozen=True)
class Form:
    """How the ids of a document are stored: as bytes, or as a list, in an encoding, compressed or not."""

    name: str
    kind: str  # "binary" or "list"
    encoding: str
    compression: str = "zstd"
    level: int | None = 3


FORMS = (
    Form("binary PLAIN zstd-3 (chosen)", "binary", "PLAIN"),
    Form("binary PLAIN zstd-1", "binary", "PLAIN", level=1),
    Form("binary PLAIN zstd-6", "binary", "PLAIN", level=6),
    Form("binary PLAIN zstd-9", "binary", "PLAIN", level=9),
    Form("binary PLAIN lz4", "binary", "PLAIN", "lz4", None),
    Form("binary PLAIN uncompressed", "binary", "PLAIN", "none", None),
    Form("binary DELTA_LENGTH zstd-3", "binary", "DELTA_LENGTH_BYTE_ARRAY"),
    Form("list PLAIN zstd-3", "list", "PLAIN"),
    Form("list BYTE_STREAM_SPLIT zstd-3", "list", "BYTE_STREAM_SPLIT"),
    Form("list DELTA zstd-3", "list", "DELTA_BINARY_PACKED"),
    Form("list dictionary zstd-3", "list", "dictionary"),
)


def texts(path: Path) -> Iterator[str]:
    rule = TextRule()
    if path.suffix == ".parquet":
        with path.open("rb") as file:
            yield from (
                item.text for item in ParquetRows(file, rule, path.name, str(path)).read() if isinstance(item, Document)
            )
        return
    parse = jsonl.parser(rule, path.name, 1 << 28)
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(1 << 20), b"")
        for line in read_lines(inflate(chunks, path.name, 200), 1 << 28):
            item = parse(line)
            if isinstance(item, Document):
                yield item.text


def blocks(documents: list[Any]) -> Iterator[list[Any]]:
    block: list[Any] = []
    held = 0
    for ids in documents:
        block.append(ids)
        held += len(ids)
        if held >= BLOCK_TOKENS:
            yield block
            block, held = [], 0
    if block:
        yield block


def column(form: Form, block: list[Any], dtype: Any) -> pa.Array:
    lengths = np.array([len(ids) for ids in block])
    tokens = np.concatenate(block).astype(dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if form.kind == "binary":
        ends = pa.py_buffer((offsets * dtype.itemsize).astype(np.int32))
        return pa.BinaryArray.from_buffers(pa.binary(), len(block), [None, ends, pa.py_buffer(tokens)])
    kind = pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(tokens), type=kind)


def write(form: Form, documents: list[Any], dtype: Any) -> bytes:
    out = io.BytesIO()
    path = "tokens" if form.kind == "binary" else "tokens.list.element"
    writer = None
    for block in blocks(documents):
        table = pa.table({"tokens": column(form, block, dtype)})
        if writer is None:
            dictionary = form.encoding == "dictionary"
            writer = pq.ParquetWriter(
                out,
                table.schema,
                compression=form.compression,
                compression_level=form.level,
                use_dictionary=[path] if dictionary else False,
                column_encoding=None if dictionary else {path: form.encoding},
                write_page_checksum=True,
                data_page_size=8 << 20,
            )
        writer.write_table(table, row_group_size=len(block))
    assert writer is not None
    writer.close()
    return out.getvalue()


def read(form: Form, data: bytes, dtype: Any) -> int:
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    tokens = 0
    for group in range(file.num_row_groups):
        chunk = file.read_row_group(group, use_threads=False).column(0).chunk(0)
        tokens += len(np.frombuffer(chunk.buffers()[2], dtype) if form.kind == "binary" else chunk.values.to_numpy())
    return tokens


def read_ours(documents: list[Any], dtype: Any) -> tuple[float, float]:
    """(bytes a token with lineage columns, M tokens a second) of the real writer and the verifying reader."""
    writer = ShardWriter(dtype, BLOCK_TOKENS, 1 << 12)
    for number, ids in enumerate(documents):
        writer.add(ids.astype(dtype), f"doc-{number}", 0, number)
    made = writer.finish()
    reader = ShardReader(pa.BufferReader(made.data), "benchmark")
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        tokens = sum(len(reader.tokens(n, block.digest).ids) for n, block in enumerate(made.blocks))
        best = max(best, tokens / (time.perf_counter() - began) / 1e6)
    return len(made.data) / made.tokens, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    tokenizer = Tokenizer(arguments.tokenizer.read_bytes())
    backend = tokenizer.backend("gigatoken")
    documents = [ids for path in arguments.files for ids in backend.encode(list(texts(path))).split()]
    total, dtype = sum(map(len, documents)), tokenizer.dtype
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}  pyarrow {pa.__version__}, python {sys.version.split()[0]}")
    print(f"{total / 1e6:.1f} M tokens of {len(documents):,} documents, {dtype.str}, blocks of {BLOCK_TOKENS:,}")
    speed: dict[str, list[tuple[float, float]]] = {form.name: [] for form in FORMS}
    size: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for form in FORMS:
            began = time.perf_counter()
            data = write(form, documents, dtype)
            wrote = time.perf_counter()
            assert read(form, data, dtype) == total
            speed[form.name].append((total / (wrote - began) / 1e6, total / (time.perf_counter() - wrote) / 1e6))
            size[form.name] = len(data) / total
    print(f"{'form':34s} bytes/token  write M tok/s  read M tok/s")
    for name, pairs in speed.items():
        print(f"{name:34s} {size[name]:11.3f} {max(w for w, _ in pairs):14.1f} {max(r for _, r in pairs):13.1f}")
    stored, fast = read_ours(documents, dtype)
    print(f"{'ours: shard, verified by digest':34s} {stored:11.3f} {'':14s} {fast:13.1f}")


if __name__ == "__main__":
    main()
