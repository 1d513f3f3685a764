"""The origin of a row: of each part the document and its tokens, and where that lies in a shard or upstream."""

from dataclasses import asdict, dataclass
from typing import Any

from bamba_data.errors import UserError

from .collate import FIELDS
from .global_order import Order
from .packing.segments import SegmentCache
from .reading import Share
from .row_reader import RowReader
from .sources.shards import ShardBlocks
from .spans import Span
from .text.blocks import TextBlocks


@dataclass(frozen=True)
class Origin:
    """Tokens [at, at + tokens) of the row are tokens [start, start + tokens) of a document, delimiters counted.

    Attributes:
        source: Name of the source, read for the `epoch`-th time, from 0.
        block: Number of the block in its source; `document` is the document's in the block.
        shard: Path of the shard in the dataset; `shard_row` is the row in it. `bamba-data trace` takes both.
        url: Of a text source, which has no shards, the upstream file instead; `url_row` is the row in it, from 0.
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
        """All fields by name."""
        return asdict(self)


def origins(order: Order, row: int) -> list[Origin]:
    """The parts of global row `row`, in the order of its tokens. Raises UserError for a row that the plan skips."""
    batch = order.plan.batch_of(row)
    if batch is None:
        raise UserError(f"row {row:,} is skipped by the plan: it was never served")
    reader = RowReader(order, SegmentCache(None, 0), Share(0, 1), FIELDS, ahead_rows=1)
    return [Origin(**span._asdict(), **_location(order, span)) for span in reader.spans(batch, row)]


def _location(order: Order, span: Span) -> dict[str, Any]:
    blocks = order.source(span.source).blocks
    if isinstance(blocks, TextBlocks):
        url, row = blocks.origin(span.block, span.document)
        return {"url": url, "url_row": row}
    if not isinstance(blocks, ShardBlocks):
        return {}
    shard, row = blocks.shard_row(span.block, span.document)
    return {"shard": shard, "shard_row": row}
