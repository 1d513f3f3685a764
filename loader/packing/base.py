"""How documents become rows: what every packing does for the order and for the reader of rows, and which there are.

    chunk      documents end to end, cut into rows wherever a row ends (chunk.py): every row is full
    best-fit   a document that fits into a row is never cut (groups.py, best_fit.py): rows are nearly full

A packing of your own that makes whole rows of the documents of a few blocks is one function (Packer): put it into
PACKERS under a name, and ask for that name. docs/packing.md has an example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..order.epochs import Stream
from ..order.plan_entries import Header
from ..sources.base import Blocks
from .segment import Segment
from .segments import Layout

Longs = NDArray[np.int64]


class Documents(NamedTuple):
    """Documents: block and place in it, in that order, and tokens."""

    blocks: Longs
    documents: Longs
    tokens: Longs

    def documents_of(self, block: int) -> Longs:
        low, high = np.searchsorted(self.blocks, (block, block + 1))
        return self.documents[low:high]


def heldout_of(blocks: Blocks, holdout_ppm: int) -> Documents:
    """The candidates that are held out of a source, `holdout_ppm` of a million documents.

    Those with the smallest hashes of their ids, so that a larger share holds out all of a smaller one, and every
    dataset and run holds out the same documents.
    """
    candidates = blocks.candidates
    chosen = np.flatnonzero(candidates.hash < np.uint64(2**64 * holdout_ppm // 10**6))
    return Documents(candidates.block[chosen], candidates.document[chosen], candidates.tokens[chosen])


class RemovedDocument(NamedTuple):
    """A document that is left out from an epoch on; `tokens` with its delimiters."""

    epoch: int
    block: int
    document: int
    tokens: int


@dataclass(frozen=True)
class PackingInput:
    """One source as a plan has it. `key` is from (seed, source), None for the order stored; `heldout` is in no epoch;
    `cache` may keep what takes long to find."""

    blocks: Blocks
    header: Header
    key: int | None
    heldout: Documents
    cache: Path | None = None

    @property
    def delimiters(self) -> int:
        """How many go around a document."""
        return len(self.header.before) + len(self.header.after)


class RowStart(NamedTuple):
    """Where a row begins, as the stream has it: epoch, position in its order, and place there."""

    epoch: int
    position: int
    place: int


class RowPiece(NamedTuple):
    """Ids [begin, begin + length) of the segment at a position of an epoch: a row, or the next part of one."""

    segment: Segment
    epoch: int
    position: int
    begin: int
    length: int


class Packed(NamedTuple):
    """Pieces of documents in rows 0 ... `rows` - 1: tokens [start, stop) of a document lie in a row. By piece, in any
    order; the pieces of a row come in the order of their documents."""

    rows: int
    row: Longs
    document: Longs
    start: Longs
    stop: Longs


#: (tokens of each document, delimiters counted; tokens of a row) -> every token in exactly one row. It must be the
#: same whenever it is called, give as many rows for any order of the same lengths, and cut a document nowhere but at
#: the end of a full row.
Packer = Callable[[Longs, int], Packed]


class Packing(Protocol):
    """One source as rows. The stream says where each lies, by arithmetic; the packing what is there.

    A position of an epoch's order has one segment: of a block, or of a group of blocks.
    """

    @property
    def stream(self) -> Stream: ...

    def layout(self, epoch: int, position: int) -> Layout:
        """What the segment at a position is made of."""

    def parts(
        self, begin: RowStart, tokens: int, epochs: int | None, segment: Callable[[int, int], Segment]
    ) -> Iterator[RowPiece]:
        """A row, at most `tokens` long: its own and one to look ahead, if that is known. Nothing from `epochs` on.
        `segment` gives the one at (epoch, position)."""

    def document(self, epoch: int, position: int, number: int) -> tuple[int, int]:
        """(block, document of the block) that a segment has under a number."""

    def first_without(self, served: int, block: int) -> int:
        """The first epoch that can be without a document of `block`, if rows [0, served) stay as they are and so does
        the length of the epoch that row `served` lies in."""

    def without(self, gone: Sequence[RemovedDocument]) -> "Packing":
        """This packing, without these documents and no others that it may have been without."""
