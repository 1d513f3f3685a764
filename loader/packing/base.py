"""How documents become rows: what every packing does for the order and for the reader of rows, and which there are.

    chunk      documents end to end, cut into rows wherever a row ends (concat_split.py): every row is full
    best-fit   a document that fits into a row is never cut (grouped.py, best_fit.py): rows are nearly full

A packing of your own that makes whole rows of the documents of a few blocks is one function (Packer): put it into
PACKERS under a name, and ask for that name. docs/packing.md has an example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import UserError
from bamba_data.format.holdout_candidates import LISTED_PPM

from ..order.epoch_cache import keep_in
from ..order.epochs import Stream
from ..order.plan_entries import Header
from ..sources.base import Blocks
from .segment import Segment
from .segments import Layout

Longs = NDArray[np.int64]


class Documents(NamedTuple):
    """Documents of a source, int64 [documents] each: block and place in it, ascending, and tokens."""

    blocks: Longs
    documents: Longs
    tokens: Longs

    def documents_of(self, block: int) -> Longs:
        """The places in `block` of those that lie there, ascending."""
        low, high = np.searchsorted(self.blocks, (block, block + 1))
        return self.documents[low:high]


def heldout_of(blocks: Blocks, holdout_ppm: int) -> Documents:
    """The candidates that are held out of a source, `holdout_ppm` of a million documents.

    Those with the smallest hashes of their ids, so that a larger share holds out all of a smaller one, and every
    dataset and run holds out the same documents.

    Raises UserError where it is more than the candidates that are listed.
    """
    candidates = blocks.candidates
    if holdout_ppm > LISTED_PPM and len(candidates.hash) != int(blocks.documents.sum()):
        raise UserError(
            f"{holdout_ppm / 1e6} of the documents are to be held out, and source {blocks.name!r} lists "
            f"{LISTED_PPM / 1e6} of them"
        )
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
    """One source as a plan has it, to be packed.

    Attributes:
        blocks: the source.
        header: of the plan: row length, delimiters, packing.
        key: from (seed, source); None keeps the order stored.
        heldout: documents that are in no epoch.
        cache: the folder that keeps what takes long to compute, if any.
    """

    blocks: Blocks
    header: Header
    key: int | None
    heldout: Documents
    cache: Path | None = None

    @property
    def delimiters(self) -> int:
        """How many tokens go around a document."""
        return len(self.header.before) + len(self.header.after)


def cached_epochs(stream: Stream, source: PackingInput, packed_as: str) -> Stream:
    """The stream, with its epochs kept in the source's cache folder; `packed_as` is what else decides them."""
    if source.cache is None:
        return stream
    decided_by = f"{source.blocks.identity} {source.delimiters} {source.header.holdout_ppm}{packed_as}"
    return replace(stream, keep=keep_in(source.cache, decided_by, source.key, stream.removed))


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
    """Pieces of documents in rows 0 ... `rows` - 1: tokens [start, stop) of a document lie in a row.

    int64 [pieces] each, in any order; the pieces of a row come in the order of their documents.
    """

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
        """A row, piece by piece.

        Args:
            begin: where the row begins.
            tokens: the most that the row may have: its own and one to look ahead, where that is known.
            epochs: nothing of this epoch or a later one; None has no end.
            segment: gives the segment at (epoch, position).
        """

    def document(self, epoch: int, position: int, number: int) -> tuple[int, int]:
        """(block, document of the block) that a segment has under a number."""

    def first_without(self, served: int, block: int) -> int:
        """The first epoch that can be without a document of `block`, if rows [0, served) stay as they are.

        The epoch that row `served` lies in keeps its length, too: every later row would lie elsewhere without it.
        """

    def without(self, removed: Sequence[RemovedDocument]) -> "Packing":
        """This packing, without these documents; those that it was without before are back unless they are given."""
