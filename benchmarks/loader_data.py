"""Datasets for benchmarks/loader.py: the same text cut into documents of several mean lengths, and of 19 sources.

    python -m benchmarks.loader_data [--out FOLDER] [--means 4250 2500 500] [--have DEBS]

For each mean it leaves `FOLDER/MEAN/texts/*.parquet`, `FOLDER/MEAN/one`, a published dataset of one source, and for the
first mean `FOLDER/MEAN/nineteen`, one of the 19 sources of Bamba by their weights. Lengths of documents are
lognormal, as those of the web are: half of them have less than half of the mean.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpus
from benchmarks.loader_peers import SHIPPED
from tests.loader.bamba import NAMES, WEIGHTS

SIGMA = 1.2  # of the logarithm of a length
CHARACTERS = 2.7  # of a token, on this text


def documents(text: str, mean: int) -> Iterator[str]:
    """`text`, cut into documents of `mean` tokens on average."""
    dice = np.random.default_rng(mean)
    at = 0
    while at < len(text):
        tokens = dice.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA)
        length = max(1, round(tokens * CHARACTERS))
        yield text[at : at + length]
        at += length


def write(folder: Path, every: list[str]) -> None:
    """A file a source, of so many of the documents as its weight says."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = (np.cumsum(WEIGHTS) / sum(WEIGHTS) * len(every)).astype(int)
    for number, (name, begin, end) in enumerate(zip(NAMES, [0, *ends[:-1]], ends, strict=True)):
        ids = [f"{name}-{place}" for place in range(begin, end)]
        table = pa.table({"id": ids, "text": every[begin:end]})
        pq.write_table(table, folder / f"{number:02}.parquet", compression="zstd", row_group_size=1000)


def build(texts: Path, out: Path, sources: dict[str, list[str]]) -> None:
    """A published dataset of these files by source."""
    corpora = [
        {"corpus": "folder", "name": name, "base": str(texts), "form": "parquet", "files": files}
        for name, files in sources.items()
    ]
    recipe = out.with_suffix(".yaml")
    recipe.write_text(json.dumps({"name": "loading", "tokenizer": {"url": SHIPPED}, "corpora": corpora}))
    command = [sys.executable, "-m", "pipelines.cli", "build", str(recipe), "--out", str(out), "--workers", "1"]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=corpus.CACHE / "loading")
    parser.add_argument("--cache", type=Path, default=corpus.CACHE)
    parser.add_argument("--have", type=Path, help="copy downloads found below this folder")
    parser.add_argument("--means", type=int, nargs="+", default=[4250, 2500, 500], help="tokens of a document")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    trees = [corpus.fetch_debian(package, options.cache, options.have) for package in corpus.DEBIAN]
    (pieces,) = corpus.deal(corpus.documents_of(corpus.package_texts(trees)), 200 * corpus.MB, options.seed)
    text = "".join(piece.text for piece in pieces)
    for mean in options.means:
        folder = options.out / str(mean)
        every = list(documents(text, mean))
        write(folder / "texts", every)
        files = [f"{number:02}.parquet" for number in range(len(NAMES))]
        if not (folder / "one").exists():
            build(folder / "texts", folder / "one", {"texts": files})
        if mean == options.means[0] and not (folder / "nineteen").exists():
            build(
                folder / "texts", folder / "nineteen", {name: [file] for name, file in zip(NAMES, files, strict=True)}
            )
        print(f"{folder}: {len(every):,} documents")


if __name__ == "__main__":
    main()
