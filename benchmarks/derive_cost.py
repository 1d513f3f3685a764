"""What it costs to drop a document and to append four inputs, beside how many shards are there: seconds and requests.

python -m benchmarks.derive_cost [--shards 1000 10000 100000]

Shards are copies of one; each is made of an input of its own, as far as tables and lock say. On a local disk; requests
are the calls of the store, as S3 would be asked: a listing is one for every thousand objects, a file that is opened
one for every read. Two sizes of one dataset differ by what is O(dataset).
"""

import argparse
import io
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from bamba_data import canonical_json
from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import lock_path
from bamba_data.storage import store as stores
from bamba_data.storage.store import Entry, LocalStore
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.tokenizer import Tokenizer
from benchmarks.measure import machine
from tests.building import build, tiny_inputs
from tests.corpora import TOKENIZER
from tests.derive.appended import append
from tests.forging import Forger, many_shards


def an_input_each(root: Path) -> None:
    """As many inputs as shards, each shard of its own."""
    forger = Forger(root)
    (file,) = forger.tables["files"]
    forger.tables["files"] = [
        {
            **file,
            "file": number,
            "path": f"{number:06d}.json.gz",
            **{"read": shard["documents"], "kept": shard["documents"], "tokens": shard["tokens"]},
            "text_bytes": 4 * shard["tokens"],
        }
        for number, shard in enumerate(forger.shards)
    ]
    for number, shard in enumerate(forger.shards):
        shard["first_file"] = number
    forger.manifest["sources"][0]["files"] = len(forger.shards)
    lock = json.loads((root / lock_path(forger.version["lock"])).read_bytes())
    like = next(entry for entry in lock["files"] if entry[0] == file["source"])
    lock["files"] = [[like[0], row["path"], row["url"], *like[3:]] for row in forger.tables["files"]]
    data = canonical_json.dumps(lock)
    forger.version["lock"] = canonical_json.sha256(data)
    (root / lock_path(forger.version["lock"])).write_bytes(data)
    forger.save()


def linked(there: Path, path: Path) -> None:
    """A file has at most some 65,000 names."""
    try:
        os.link(there, path)
    except OSError:
        shutil.copyfile(there, path)


class Counted(LocalStore):
    """A local store that counts what would be asked of S3."""

    requests = read_bytes = 0

    @classmethod
    def _read(cls, data: bytes) -> bytes:
        Counted.requests += 1
        Counted.read_bytes += len(data)
        return data

    def read(self, path: str) -> bytes:
        return self._read(super().read(path))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        return self._read(super().read_range(path, start, end))

    def create(self, path: str, data: bytes) -> bool:
        Counted.requests += 1
        return super().create(path, data)

    def writer(self, path: str) -> AbstractContextManager[BinaryIO]:  # `put` comes here, too
        Counted.requests += 1
        return super().writer(path)

    def stat(self, path: str) -> Entry | None:
        Counted.requests += 1
        return super().stat(path)

    def delete(self, path: str) -> None:
        Counted.requests += 1
        super().delete(path)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        Counted.requests += 1
        for number, entry in enumerate(super().list(prefix), 1):
            Counted.requests += number % 1000 == 0
            yield entry

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_CountedFile(self._at(path), "rb"), 4 << 20))


class _CountedFile(io.FileIO):
    def readinto(self, buffer: Any, /) -> int | None:
        count = super().readinto(buffer)
        Counted._read(bytes(count or 0))
        return count


def timed(name: str, work: Callable[[], object]) -> None:
    Counted.requests = Counted.read_bytes = 0
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    read = f"{Counted.read_bytes / 1e6:8.2f} MB read"
    print(f"  {name:28s} {seconds:7.2f} s  {Counted.requests:4d} requests  {read}  peak {peak:,} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    counts = parser.parse_args().shards
    stores.LocalStore = Counted  # type: ignore[misc]  # what open_store makes
    _, certificate, _ = choose(Tokenizer(TOKENIZER.read_bytes()), "auto")
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}")
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
            measure(Path(folder), count, certificate)


def measure(folder: Path, count: int, certificate: Certificate) -> None:
    root, recipe = folder / "dataset", str(tiny_inputs(folder))
    build(root, certificate, recipe)
    many_shards(root, count, linked)
    an_input_each(root)
    listed = folder / "list.jsonl"
    listed.write_text(f'{{"file": "{count // 2:06d}.json.gz", "row": 0}}\n')
    print(f"{count:,} shards, {len(open_dataset(root).blocks):,} blocks")
    timed("open and read the tables", lambda: open_dataset(root).identities_of_tables)
    timed("drop one document, by place", lambda: drop(str(root), read_list(listed)))
    timed("append, whole", lambda: append(root, Path(recipe), "corpora.0.name=fresh", "corpora.1.name=others"))


if __name__ == "__main__":
    main()
