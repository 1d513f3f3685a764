"""Documents end to end, cut into rows wherever a row ends. Every row is full; a row may run on through any number of
blocks and into the next epoch, so that nothing is lost, repeated or filled up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..order.epoch_cache import keep_in
from ..order.epochs import RemovedTokens, Stream, document_order, removals
from ..sources.base import Blocks
from .base import PackingInput, RemovedDocument, RowPiece, RowStart
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
        parts = []
        begins = (ends - stored.counts)[order].tolist()
        for begin, end in zip(begins, ends[order].tolist(), strict=True):
            if len(before):
                parts.append(before)
            parts.append(stored.ids[begin:end])
            if len(after):
                parts.append(after)
        starts = np.zeros(len(order) + 1, np.int32)
        starts[1:] = np.cumsum(stored.counts[order].astype(np.int64) + (len(before) + len(after)))
        ids = np.concatenate(parts) if parts else np.empty(0, stored.ids.dtype)
        return Segment(ids, starts, order.astype(np.uint32))


@dataclass(frozen=True)
class ConcatSplit:
    """The stream is of blocks, in tokens."""

    material: PackingInput
    stream: Stream
    gone: tuple[RemovedDocument, ...] = ()

    @classmethod
    def of(cls, material: PackingInput) -> "ConcatSplit":
        blocks, header, heldout = material.blocks, material.header, material.heldout
        lengths = blocks.tokens + material.delimiters * blocks.documents
        np.subtract.at(lengths, heldout.blocks, heldout.tokens + material.delimiters)
        return cls(material, Stream(lengths, header.row_tokens, header.window_rows, material.key)).without(())

    def without(self, gone: Sequence[RemovedDocument]) -> "ConcatSplit":
        removed = removals([RemovedTokens(one.epoch, one.block, one.tokens) for one in gone])
        stream = replace(self.stream, removed=removed)
        material = self.material
        if material.cache is not None:
            kept_as = f"{material.blocks.identity} {material.delimiters} {material.header.holdout_ppm}"
            stream = replace(stream, keep=keep_in(material.cache, kept_as, material.key, removed))
        return ConcatSplit(material, stream, tuple(gone))

    def first_without(self, served: int, block: int) -> int:
        """The last row of an epoch ends in the next one. What it holds of that keeps its place there too."""
        epoch = int(self.stream.epoch_of(np.array([served]))[0])
        following = self.stream.epoch(epoch + 1)
        position = int(np.flatnonzero(following.order == block)[0])
        begins = int(following.ends[position - 1]) if position else 0
        return epoch + 2 if begins <= self.stream.row_tokens else epoch + 1

    def layout(self, epoch: int, position: int) -> BlockLayout:
        material = self.material
        block = int(self.stream.epoch(epoch).order[position])
        left_out = material.heldout.documents_of(block).tolist()
        left_out += [one.document for one in self.gone if one.block == block and one.epoch <= epoch]
        header = material.header
        return BlockLayout(
            block, epoch, tuple(header.before), tuple(header.after), material.key, tuple(sorted(left_out))
        )

    def document(self, epoch: int, position: int, number: int) -> tuple[int, int]:
        return int(self.stream.epoch(epoch).order[position]), number

    def parts(
        self, begin: RowStart, tokens: int, epochs: int | None, segment: Callable[[int, int], Segment]
    ) -> Iterator[RowPiece]:
        epoch, position, place = begin
        blocks = len(self.stream.lengths)
        ended = self.stream.ended  # the last row of the last epoch that has tokens runs on into nothing
        if ended is not None:
            epochs = ended if epochs is None else min(epochs, ended)
        while tokens:
            if position == blocks:
                epoch, position = epoch + 1, 0
            if epochs is not None and epoch >= epochs:
                return
            found = segment(epoch, position)
            count = min(len(found.ids) - place, tokens)
            if count > 0:
                yield RowPiece(found, epoch, position, place, count)
                tokens -= count
            place = 0
            position += 1
