"""Where each part of a row of the global order came from: token ranges of documents, and their rows in shards or in the
files of a text source."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bamba_data.errors import UserError

from .global_order import Order
from .packing.segments import SegmentCache
from .row_reader import FIELDS, RowReader, Share, Span
from .sources.shards import ShardBlocks
from .text.blocks import TextBlocks


@dataclass(frozen=True)
class Origin:
    """Tokens [at, at + tokens) of the row are tokens [start, start + tokens) of a document, delimiters counted.

    `shard` and `shard_row` name it for `bamba-data trace`. A document of a text source has the upstream file instead,
    and its row there.
    """

    at: int
    tokens: int
    source: str
    epoch: int
    start: int
    block: int
    document: int
    shard: str | None = None
    shard_row: int | None = None
    url: str | None = None
    url_row: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def origins(order: Order, row: int) -> list[Origin]:
    """Of global row `row`. Raises UserError for a row that the plan skips."""
    batch = order.plan.batch_of(row)
    if batch is None:
        raise UserError(f"row {row:,} is skipped by the plan: it was never served")
    reader = RowReader(order, SegmentCache(None, 0), Share(0, 1), FIELDS, ahead_rows=1)
    return [
        Origin(one.at, one.tokens, one.source, one.epoch, one.start, one.block, one.document, **_place(order, one))
        for one in reader.spans(batch, row)
    ]


def _place(order: Order, span: Span) -> dict[str, Any]:
    blocks = order.source(span.source).blocks
    if isinstance(blocks, TextBlocks):
        found = blocks.origin(span.block, span.document)
        return {"url": found.url, "url_row": found.row}
    if not isinstance(blocks, ShardBlocks):
        return {}
    shard, row_group = blocks.place(span.block)
    first = span.block - row_group  # the blocks of a shard are neighbours
    before = int(np.sum(blocks.documents[first : span.block]))
    return {"shard": str(blocks.dataset.shards["path"][shard]), "shard_row": before + span.document}
