"""What a dataset holds, as pyarrow reads its shards, and what is served of it: as counts of (source, id, tokens)."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import Derived, drop
from bamba_data.format.dataset import Dataset, open_dataset
from loader import OrderSpec, Reading, build_loader, origins
from loader.sources.shards import open_blocks

Document = tuple[str, str, tuple[int, ...]]
Contents = Counter[Document]


def stored(dataset: Dataset | Path) -> Contents:
    """All documents that lie in the shards that a version names."""
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    dtype = opened.manifest.tokenizer.token_dtype
    found: Contents = Counter()
    urls = opened.shard_urls(with_dropped=True)
    for source, url in zip(opened.shards["source"], urls, strict=True):
        for row in pq.read_table(url, partitioning=None).to_pylist():
            found[source, row["document_id"], tuple(np.frombuffer(row["tokens"], dtype).tolist())] += 1
    return found


def without(contents: Contents, ids: set[str]) -> Contents:
    return Counter({document: count for document, count in contents.items() if document[1] not in ids})


def tokens_of(contents: Contents) -> Counter[tuple[str, tuple[int, ...]]]:
    """Source and tokens alone: what a loader, which knows no ids, can serve of it."""
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for (source, _, ids), count in contents.items():
        found[source, ids] += count
    return found


def read(url: Path | str, cache: Path) -> Counter[tuple[str, tuple[int, ...]]]:
    """All documents of all blocks, as the loader reads them."""
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for name, blocks in open_blocks(open_dataset(url), cache).items():
        for block in range(len(blocks.tokens)):
            tokens = blocks.read(block)
            assert len(tokens.counts) == blocks.documents[block] > 0
            assert blocks.counts(block).tolist() == tokens.counts.tolist()
            for ids in tokens.documents():
                found[name, tuple(ids.tolist())] += 1
    return found


def served(url: Path | str, cache: Path, source: str) -> Counter[str]:
    """How many tokens of each document, by its id, the first epoch of a source serves; one is the end of text."""
    dataset = open_dataset(url)
    spec = OrderSpec(weights={source: 1}, row_tokens=32, batch_rows=4, seed=5, holdout=0)
    order = build_loader(dataset, spec, Reading(cache=cache, num_workers=0)).order
    ids = {
        path: pq.read_table(f"{dataset.store.url}/{path}", partitioning=None)["document_id"].to_pylist()
        for path in dataset.shards["path"]
    }
    found: Counter[str] = Counter()
    for row in range(order.source(source).stream.first_row(1)):
        for origin in origins(order, row):
            if origin.epoch == 0:
                assert origin.shard is not None and origin.shard_row is not None
                found[ids[origin.shard][origin.shard_row]] += origin.tokens
    return found


def listed(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def dropped(url: Path, ids: set[str], version: str | None = None) -> Derived:
    made = drop(str(url), read_list(listed(url.parent / "ids.txt", "\n".join(sorted(ids)))), version)
    assert made is not None
    return made


def objects(url: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in url.rglob("dataset=*/*.parquet")}
