"""Concatenate and split: documents end to end, cut into rows wherever a row ends, as for GPT-3 (arXiv 2005.14165).

Every row is full; a row may run on through any number of blocks and into the next epoch, so that nothing is lost,
repeated or filled up. The price: a document is cut wherever a row happens to end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bamba_data import native

from ..order.epochs import RemovedTokens, Stream, document_order, sorted_removals
from ..sources.base import Blocks
from .base import PackingInput, RemovedDocument, RowPiece, RowStart, cached_epochs
from .document_transforms import read_in
from .segment import Segment


@dataclass(frozen=True)
class BlockLayout:
    """A layout: the documents of a block in the order of an epoch, with `before` and `after` around each. `left_out`
    are those that the epoch does not have, ascending."""

    block: int
    epoch: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    key: int | None  # of the stream
    left_out: tuple[int, ...] = ()

    @property
    def blocks(self) -> tuple[int]:
        return (self.block,)

    def cache_key(self) -> str:
        return (
            f"WholeBlock(block={self.block!r}, epoch={self.epoch!r}, before={self.before!r}, after={self.after!r}, "
            f"key={self.key!r}, left_out={self.left_out!r})"
        )

    def make(self, blocks: Blocks) -> Segment:
        stored = read_in(blocks, self.block, self.epoch, self.key)
        ends = np.cumsum(stored.counts, dtype=np.int64)
        order = document_order(self.key, self.epoch, self.block, len(stored.counts))
        if self.left_out:
            order = order[~np.isin(order, self.left_out)]
        before, after = (np.array(ids, stored.ids.dtype) for ids in (self.before, self.after))
        starts = np.zeros(len(order) + 1, np.int32)
        starts[1:] = np.cumsum(stored.counts[order].astype(np.int64) + (len(before) + len(after)))
        ids = native.lay_out(stored.ids, (ends - stored.counts)[order], ends[order], before, after)
        return Segment(ids, starts, order.astype(np.uint32))


@dataclass(frozen=True)
class ConcatSplit:
    """The packing `chunk`: its stream is of blocks, in tokens."""

    source: PackingInput
    stream: Stream
    removed: tuple[RemovedDocument, ...] = ()

    @classmethod
    def of(cls, source: PackingInput) -> "ConcatSplit":
        blocks, header, heldout = source.blocks, source.header, source.heldout
        lengths = blocks.tokens + source.delimiters * blocks.documents
        np.subtract.at(lengths, heldout.blocks, heldout.tokens + source.delimiters)
        return cls(source, Stream(lengths, header.row_tokens, header.window_rows, source.key)).without(())

    def without(self, removed: Sequence[RemovedDocument]) -> "ConcatSplit":
        source = self.source
        tokens = sorted_removals(RemovedTokens(document.epoch, document.block, document.tokens) for document in removed)
        stream = cached_epochs(replace(self.stream, removed=tokens), source, "")
        return ConcatSplit(source, stream, tuple(removed))

    def first_without(self, served: int, block: int) -> int:
        """The last row of an epoch ends in the next one. What it holds of that keeps its place there too."""
        epoch = int(self.stream.epoch_of(np.array([served]))[0])
        following = self.stream.epoch(epoch + 1)
        position = int(np.flatnonzero(following.order == block)[0])
        block_start = int(following.ends[position - 1]) if position else 0
        return epoch + 2 if block_start <= self.stream.row_tokens else epoch + 1

    def layout(self, epoch: int, position: int) -> BlockLayout:
        source = self.source
        block = int(self.stream.epoch(epoch).order[position])
        left_out = source.heldout.documents_of(block).tolist()
        left_out += [removed.document for removed in self.removed if removed.block == block and removed.epoch <= epoch]
        header = source.header
        return BlockLayout(block, epoch, tuple(header.before), tuple(header.after), source.key, tuple(sorted(left_out)))

    def document(self, epoch: int, position: int, number: int) -> tuple[int, int]:
        return int(self.stream.epoch(epoch).order[position]), number

    def parts(
        self, begin: RowStart, tokens: int, epochs: int | None, segment: Callable[[int, int], Segment]
    ) -> Iterator[RowPiece]:
        epoch, position, place = begin
        blocks = len(self.stream.lengths)
        if (ended := self.stream.ended) is not None:  # the last row before that runs on into nothing
            epochs = ended if epochs is None else min(epochs, ended)
        while tokens:
            if position == blocks:
                epoch, position = epoch + 1, 0
            if epochs is not None and epoch >= epochs:
                return
            documents = segment(epoch, position)
            count = min(len(documents.ids) - place, tokens)
            if count > 0:  # a block may be empty: all of it held out or in quarantine
                yield RowPiece(documents, epoch, position, place, count)
                tokens -= count
            place = 0
            position += 1
