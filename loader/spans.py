"""Which document every token of a row is of: the row's pieces, cut where documents begin.

What masks documents in quarantine, and what names the origin of a row (`loader.lineage`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from .packing.base import Packing, RowPiece


class Span(NamedTuple):
    """Tokens [at, at + tokens) of a row are [start, start + tokens) of a document, delimiters counted.

    `document` is its number within `block`, which is a block's number within its source.
    """

    at: int
    tokens: int
    source: str
    epoch: int
    block: int
    document: int
    start: int


def spans_of(pieces: Sequence[tuple[int, RowPiece]], source: str, packing: Packing, row_tokens: int) -> list[Span]:
    """The spans of a row that was put together of `pieces`, each with its place in the row."""
    spans: list[Span] = []
    for at, (segment, epoch, position, token, count) in pieces:
        low, high = token, token + min(count, row_tokens - at)  # without the token of look-ahead
        first = int(segment.starts.searchsorted(low, "right")) - 1
        for number in range(first, len(segment.documents)):
            begin, end = max(low, int(segment.starts[number])), min(high, int(segment.starts[number + 1]))
            if begin >= high:
                break
            if end > begin:
                start = begin - int(segment.starts[number])
                start += int(segment.offsets[number]) if len(segment.offsets) else 0
                block, document = packing.document(epoch, position, int(segment.documents[number]))
                spans.append(Span(at + begin - token, end - begin, source, epoch, block, document, start))
    return spans
