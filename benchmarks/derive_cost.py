"""What it costs to drop a document and to append an input, beside how many shards are there: seconds and objects.

python -m benchmarks.derive_cost [--shards 1000 10000 100000]

Shards are copies of one; each is made of an input of its own, as far as the tables say. On a local disk.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.derive.joining import joined
from bamba_data.format.dataset import open_dataset
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.tokenizer import Tokenizer
from benchmarks.measure import machine
from tests.building import build, tiny_inputs
from tests.corpora import TOKENIZER
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
    forger.save()


def linked(there: Path, path: Path) -> None:
    """A file has at most some 65,000 names."""
    try:
        os.link(there, path)
    except OSError:
        shutil.copyfile(there, path)


def timed(name: str, root: Path, work: Callable[[], object]) -> None:
    objects = sum(1 for _ in (root / "_bamba").rglob("*.*"))
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    written = sum(1 for _ in (root / "_bamba").rglob("*.*")) - objects
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"  {name:28s} {seconds:7.2f} s  {written:3d} objects written  peak {peak:,} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    counts = parser.parse_args().shards
    _, certificate, _ = choose(Tokenizer(TOKENIZER.read_bytes()), "auto")
    print(f"{datetime.now(UTC):%Y-%m-%d}  {machine()}")
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="bamba-bench-") as folder:
            measure(Path(folder), count, certificate)


def measure(folder: Path, count: int, certificate: Certificate) -> None:
    root, small, recipe = folder / "dataset", folder / "small", str(tiny_inputs(folder))
    build(root, certificate, recipe)
    build(small, certificate, recipe, ["corpora.0.name=fresh", "corpora.1.name=others"])
    many_shards(root, count, linked)
    an_input_each(root)
    listed = folder / "list.jsonl"
    listed.write_text(f'{{"file": "{count // 2:06d}.json.gz", "row": 0}}\n')
    print(f"{count:,} shards, {len(open_dataset(root).blocks):,} blocks")
    timed("open and read the tables", root, lambda: open_dataset(root).identities_of_tables)
    timed("drop one document, by place", root, lambda: drop(str(root), read_list(listed)))
    parent, part = open_dataset(root), open_dataset(small)
    timed("tables of an append", root, lambda: joined(parent.store, [parent, part], "append", {}, [parent]))


if __name__ == "__main__":
    main()
