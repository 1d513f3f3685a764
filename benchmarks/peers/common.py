"""What every runner shares: its arguments, and a count of its output that does not depend on order.

A runner is a script with two commands. `build` is the timed work and nothing else; `count` reads
what build wrote, one array of ids per document, and reports documents, tokens and one hash per
document, delimiters stripped, so that two tools can be compared id by id. Only the standard
library is imported up here: a runner must not add to the start-up of the tool it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.unsignedinteger[Any] | np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """One tokenization: these files, with this tokenizer, into this folder."""

    inputs: tuple[Path, ...]
    tokenizer: Path
    eos_id: int
    eos_token: str
    vocabulary: int
    out: Path
    report: Path
    text_mb: float | None
    strip: bool

    @property
    def dtype(self) -> str:
        return "uint16" if self.vocabulary <= 1 << 16 else "uint32"

    def write(self, **values: object) -> None:
        self.report.write_text(json.dumps(values))


def versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def count(documents: Iterable[Ids], eos_id: int) -> dict[str, object]:
    """Documents, tokens without delimiters, delimiters, and a short hash per document, sorted."""
    from hashlib import blake2b

    hashes: list[str] = []
    tokens = delimiters = 0
    for ids in documents:
        end = len(ids)
        while end and ids[end - 1] == eos_id:
            end -= 1
        tokens += end
        delimiters += len(ids) - end
        if end:
            hashes.append(blake2b(ids[:end].astype("<u4").tobytes(), digest_size=8).hexdigest())
    hashes.sort()
    return {
        "documents": len(hashes),
        "tokens": tokens,
        "delimiters": delimiters,
        "hashes": hashes,
    }


def read_texts(paths: Iterable[Path], limit_bytes: float | None = None) -> list[str]:
    """The texts of corpus files in any of the three formats, up to `limit_bytes` of UTF-8."""
    texts: list[str] = []
    size = 0
    for path in paths:
        for text in _texts(path):
            texts.append(text)
            size += len(text.encode())
            if limit_bytes and size >= limit_bytes:
                return texts
    return texts


def _texts(path: Path) -> Iterator[str]:
    if path.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        yield from pq.read_table(path, columns=["text"])["text"].to_pylist()
        return
    if path.name.endswith(".gz"):
        import gzip

        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)
    else:
        import zstandard

        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def parquet_documents(job: Job, columns: tuple[str, ...] = ("tokens", "input_ids")) -> Iterator[Ids]:
    """Ids of every parquet file below `job.out`: a list column, or a binary column of little-endian ids."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(job.out.rglob("*.parquet")):
        file = pq.ParquetFile(path)
        kinds = {field.name: field.type for field in file.schema_arrow}
        names = [name for name in columns if name in kinds and not pa.types.is_integer(kinds[name])]  # a table's counts
        if not names:
            continue
        for batch in file.iter_batches(256, columns=names[:1]):
            for value in batch.column(0):
                if pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type):
                    yield np.frombuffer(value.as_py(), np.dtype(job.dtype).newbyteorder("<"))
                else:
                    yield value.values.to_numpy(zero_copy_only=False)


def main(
    build: Callable[[Job], None],
    documents: Callable[[Job], Iterable[Ids]],
    packages: tuple[str, ...],
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("build", "count"))
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--eos-id", type=int, required=True)
    parser.add_argument("--eos-token", required=True)
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--text-mb", type=float, help="yardstick only: stop after this much text")
    parser.add_argument("--strip", action="store_true", help="yardstick only: strip every text")
    parser.add_argument("inputs", nargs="+", type=Path)
    options = vars(parser.parse_args())
    command = options.pop("command")
    job = Job(**options | {"inputs": tuple(path.resolve() for path in options["inputs"])})
    job.out.mkdir(parents=True, exist_ok=True)
    if command == "build":
        build(job)
    else:
        job.write(**count(documents(job), job.eos_id), versions=versions(*packages))
