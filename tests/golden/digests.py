"""What must never change: which ids a dataset holds, and which rows are served."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loader.dataset import build_loader
from loader.sources.base import Blocks

FIELDS = ("row", "input_ids", "labels", "position_ids", "seq_idx", "source")


def of_batches(batches: Iterable[dict[str, Any]]) -> str:
    hashed = hashlib.sha256()
    for batch in batches:
        for name in FIELDS:
            hashed.update(batch[name].numpy().tobytes())
    return hashed.hexdigest()


def of_ids(blocks: Blocks) -> str:
    """Of the ids of all documents of a source, and where documents end."""
    hashed = hashlib.sha256()
    for block in range(len(blocks.tokens)):
        tokens = blocks.read(block)
        hashed.update(tokens.ids.tobytes() + tokens.counts.tobytes())
    return hashed.hexdigest()


def of_first_batches(dataset: str, packing: str, cache: Path) -> str:
    """The first three of 64 rows of 1,024 tokens."""
    loader = build_loader(dataset, row_tokens=1024, batch_rows=64, seed=3, packing=packing, cache=cache, num_workers=0)
    return of_batches(next(loader) for _ in range(3))
