"""Small real inputs for tests: text from the demo's chapters and speeches, written in the forms of the corpora."""

import gzip
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

DEMO = Path(__file__).parent.parent / "pipelines" / "recipes" / "demo"
TOKENIZER = Path(__file__).parent.parent / "bamba_data" / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"


@cache
def texts() -> tuple[str, ...]:
    """165 texts of English prose, the demo's."""
    found: list[str] = []
    for path in sorted(DEMO.glob("dolma/books/*.json.gz")):
        with gzip.open(path) as file:
            found += [json.loads(line)["text"] for line in file]
    for path in sorted(DEMO.glob("*/*/*/*.parquet")):
        found += pq.read_table(path, columns=["text"])["text"].to_pylist()
    return tuple(found)


def records(count: int, start: int = 0, text_chars: int | None = None) -> list[dict[str, Any]]:
    """Dolma-like records with distinct ids; texts repeat after 165, cut to `text_chars`."""
    known = texts()
    return [
        {"id": f"doc-{n}", "text": known[n % len(known)][:text_chars], "source": "test", "metadata": {"n": n}}
        for n in range(start, start + count)
    ]


def lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write_jsonl(path: Path, content: bytes | Sequence[dict[str, Any]]) -> Path:
    """Write lines as plain, .gz or .zst, by the name."""
    data = content if isinstance(content, bytes) else lines(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        data = gzip.compress(data, 6, mtime=0)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)
    path.write_bytes(data)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], row_group_size: int = 8) -> Path:
    """Write FineWeb-like parquet: text, id, dump."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": [r["text"] for r in rows], "id": [r["id"] for r in rows], "dump": ["x"] * len(rows)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def recipe(
    folder: Path,
    files: Sequence[str] = ("*.json.gz",),
    form: str = "jsonl",
    name: str = "test",
    extra: str = "",
    backend: str = "auto",
    blocks: str = "{block_tokens: 4096, blocks_per_shard: 4}",
) -> Path:
    """A recipe beside the folder `inputs` that holds its files."""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""
name: {name}
tokenizer: {{url: package:{TOKENIZER.name}, backend: {backend}}}
corpora:
  - {{corpus: folder, name: texts, base: inputs, form: {form}, files: {json.dumps(list(files))}}}
shards: {blocks}
{extra}
""",
        encoding="utf-8",
    )
    return path
