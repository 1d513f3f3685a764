"""Rows that are made whole of the documents of a few blocks, by a packer.

    group    neighbouring blocks (row_counts.py), the same in every epoch
    epoch    every group once, in an order of its own. A row belongs to one group, and to one epoch
    rows     of a group, as many as the packer makes of its documents' lengths. The packer is given the documents in an
             order of the epoch's own, so that equally long ones change places, and its rows are put in another

So a row is found by a prefix sum over the permuted groups' numbers of rows, as a token is in order/epochs.py, and its
tokens by packing one group. A packed group is a segment; where a row is not full, there is fill after its end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data import native
from bamba_data.errors import CorruptManifest, UserError

from ..order.epochs import RemovedTokens, Stream, document_order, sorted_removals
from ..order.permutation import Permutation, derive_key
from ..sources.base import Blocks
from .base import Documents, Longs, Packed, Packer, PackingInput, RemovedDocument, RowPiece, RowStart, cached_epochs
from .document_transforms import read_in
from .row_counts import Grouping, numbers_in, rows_by_group
from .segment import Segment

MAX_GROUP_IDS = 2**31 - 1  # places in a segment are int32


@dataclass(frozen=True)
class GroupLayout:
    """A layout: the documents of a group of blocks in `rows` rows. `left_out` are the numbers of those that the epoch
    does not have, in the blocks end to end, ascending."""

    packing: str
    packer: Packer  # that `packing` names
    row_tokens: int
    group: int
    blocks: range
    epoch: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    key: int | None
    left_out: tuple[int, ...]
    rows: int

    def cache_key(self) -> str:
        return (
            f"PackedGroup(packing={self.packing!r}, row_tokens={self.row_tokens!r}, group={self.group!r}, "
            f"blocks={self.blocks!r}, epoch={self.epoch!r}, before={self.before!r}, after={self.after!r}, "
            f"key={self.key!r}, left_out={self.left_out!r}, rows={self.rows!r})"
        )

    def make(self, blocks: Blocks) -> Segment:
        stored = [read_in(blocks, block, self.epoch, self.key) for block in self.blocks]
        counts = np.concatenate([tokens.counts for tokens in stored]).astype(np.int64)
        lengths = counts + (len(self.before) + len(self.after))
        order = document_order(self.key, self.epoch, self.group, len(counts))
        if self.left_out:
            order = order[~np.isin(order, self.left_out)]
        packed = checked(self.packer(lengths[order], self.row_tokens), lengths[order], self.row_tokens)
        if packed.rows != self.rows:
            raise CorruptManifest(
                f"source {blocks.name}",
                f"blocks {self.blocks.start} to {self.blocks.stop - 1} pack into {packed.rows:,} rows, the index of "
                f"their lengths says {self.rows:,}: remove the folder `lengths` of the cache",
            )
        row = self._place(packed)[packed.row]
        by_row = np.lexsort((packed.document, row))
        document = order[packed.document[by_row]]
        pieces = Packed(packed.rows, row[by_row], document, packed.start[by_row], packed.stop[by_row])
        return _segment(self._delimited([tokens.ids for tokens in stored], counts), lengths, pieces)

    def _place(self, packed: Packed) -> Longs:
        """Where each row of the packer's goes: anywhere; not shuffled, in the order of their first documents."""
        places: Longs = np.arange(packed.rows)
        if self.key is None:
            first = np.full(packed.rows, np.iinfo(np.int64).max)
            np.minimum.at(first, packed.row, packed.document)
            places[np.argsort(first, kind="stable")] = np.arange(packed.rows)
        elif packed.rows:
            shuffle = Permutation(packed.rows, derive_key(self.key, "packed", self.epoch, self.group))
            places = shuffle(places).astype(np.int64)
        return places

    def _delimited(self, stored: Sequence[NDArray[Any]], counts: Longs) -> NDArray[Any]:
        """All documents as stored, with delimiters."""
        ends = np.cumsum(counts)
        before, after = (np.array(ids, stored[0].dtype) for ids in (self.before, self.after))
        return native.lay_out(np.concatenate(stored), ends - counts, ends, before, after)


@dataclass(frozen=True)
class Grouped:
    """A packing by a `Packer`, which `source.header.packing` names. The stream is of groups, in rows: a place a row."""

    source: PackingInput
    packer: Packer
    grouping: Grouping
    stream: Stream
    removed: tuple[RemovedDocument, ...] = ()

    @classmethod
    def of(cls, source: PackingInput, packer: Packer) -> "Grouped":
        rows = rows_by_group(source, packer)
        stream = Stream(rows, 1, source.header.window_rows, source.key)
        return cls(source, packer, Grouping(source), stream).without(())

    def without(self, removed: Sequence[RemovedDocument]) -> "Grouped":
        """Only groups that are without other documents than before are packed anew: that reads their blocks."""
        known = self._by_group(self.removed)
        fewer: list[RemovedTokens] = []
        for group, documents in self._by_group(removed).items():
            if documents == known.get(group):
                fewer += [rows for rows in self.stream.removed if rows.block == group]
            else:
                fewer += self._fewer_rows(group, documents)
        header = self.source.header
        packed_as = f" {header.packing} {header.row_tokens} {header.group_rows}"
        stream = cached_epochs(replace(self.stream, removed=sorted_removals(fewer)), self.source, packed_as)
        return replace(self, stream=stream, removed=tuple(removed))

    def _by_group(self, removed: Sequence[RemovedDocument]) -> dict[int, list[RemovedDocument]]:
        groups: dict[int, list[RemovedDocument]] = {}
        for document in removed:
            groups.setdefault(self.grouping.group_of(document.block), []).append(document)
        return groups

    def _fewer_rows(self, group: int, removed: Sequence[RemovedDocument]) -> Iterator[RemovedTokens]:
        """By how many rows a group is shorter from each epoch on that leaves out some of these."""
        rows = int(self.stream.lengths[group])
        for epoch in sorted({document.epoch for document in removed}):
            fewer = rows - self._rows(group, [document for document in removed if document.epoch <= epoch])
            yield RemovedTokens(epoch, group, fewer)
            rows -= fewer

    def _rows(self, group: int, removed: Sequence[RemovedDocument]) -> int:
        """Of a group without these documents."""
        blocks = self.grouping.blocks_of(group)
        counts = np.concatenate([self.source.blocks.read(block).counts for block in blocks]).astype(np.int64)
        lengths = np.delete(counts + self.source.delimiters, self._left_out(blocks, removed))
        return self.packer(lengths, self.source.header.row_tokens).rows

    def _left_out(self, blocks: range, removed: Sequence[RemovedDocument]) -> Longs:
        """The numbers, in `blocks`, of documents held out and of these."""
        places = sorted({(document.block, document.document) for document in removed if document.block in blocks})
        block, document = np.array(places, np.int64).reshape(-1, 2).T
        heldout = numbers_in(self.source, blocks, self.source.heldout)
        return np.union1d(heldout, numbers_in(self.source, blocks, Documents(block, document, np.zeros_like(block))))

    def first_without(self, served: int, block: int) -> int:
        """Epochs share no row."""
        return int(self.stream.epoch_of(np.array([served]))[0]) + 1

    def layout(self, epoch: int, position: int) -> GroupLayout:
        header = self.source.header
        group = int(self.stream.epoch(epoch).order[position])
        blocks = self.grouping.blocks_of(group)
        left_out = self._left_out(blocks, [document for document in self.removed if document.epoch <= epoch])
        fewer = sum(rows.tokens for rows in self.stream.removed if rows.block == group and rows.epoch <= epoch)
        return GroupLayout(
            header.packing,
            self.packer,
            header.row_tokens,
            group,
            blocks,
            epoch,
            tuple(header.before),
            tuple(header.after),
            self.source.key,
            tuple(left_out.tolist()),
            int(self.stream.lengths[group]) - fewer,
        )

    def document(self, epoch: int, position: int, number: int) -> tuple[int, int]:
        blocks = self.grouping.blocks_of(int(self.stream.epoch(epoch).order[position]))
        ends = np.cumsum(self.source.blocks.documents[blocks.start : blocks.stop])
        index = int(np.searchsorted(ends, number, "right"))
        return blocks.start + index, number - (int(ends[index - 1]) if index else 0)

    def parts(
        self, begin: RowStart, tokens: int, epochs: int | None, segment: Callable[[int, int], Segment]
    ) -> Iterator[RowPiece]:
        epoch, position, row = begin
        if epochs is None or epoch < epochs:
            group = segment(epoch, position)
            low, high = group.rows[row : row + 2].tolist()
            yield RowPiece(group, epoch, position, low, min(high - low, tokens))


def checked(packed: Packed, lengths: Longs, row_tokens: int) -> Packed:
    """`packed`, if it keeps the promises of a `Packer`. Raises UserError, which says which not.

    Asked of every group that is packed, ours and yours: a token lost here would be lost in silence.
    """
    if broken := _broken(packed, lengths, row_tokens):
        raise UserError(f"the packing breaks its promise: {broken}")
    return packed


def _broken(packed: Packed, lengths: Longs, row_tokens: int) -> str | None:
    rows, row, document, start, stop = packed
    if np.any((row < 0) | (row >= rows) | (document < 0) | (document >= len(lengths)) | (start >= stop)):
        return "a piece lies in no row, is of no document, or is empty"
    by_document = np.lexsort((start, document))
    begins, ends, owner = start[by_document], stop[by_document], document[by_document]
    first = np.diff(owner, prepend=-1) > 0
    if (
        not np.array_equal(owner[first], np.flatnonzero(lengths))
        or not np.array_equal(begins, np.where(first, 0, np.roll(ends, 1)))
        or not np.array_equal(ends[np.roll(first, -1)], lengths[lengths > 0])
    ):
        return "a token is in no row, or in several"
    tokens = np.bincount(row, stop - start, rows)
    if np.any(tokens == 0) or np.any(tokens > row_tokens):
        return "a row is empty, or longer than a row can be"
    by_row = np.lexsort((document, row))
    last = np.diff(row[by_row], append=rows) > 0
    if np.any((stop < lengths[document])[by_row] & ~(last & (tokens[row[by_row]] == row_tokens))):
        return "a document is cut elsewhere than at the end of a full row"
    return None


def _segment(ids: NDArray[Any], lengths: Longs, pieces: Packed) -> Segment:
    """`ids` are documents end to end, with these lengths; `pieces` are in the order of rows. After a row that ends
    inside a document lies the next token of that, to look ahead to."""
    rows, row, document, start, stop = pieces
    begins = (np.cumsum(lengths) - lengths)[document]
    ahead = stop < lengths[document]
    sizes = stop - start + ahead
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if starts[-1] > MAX_GROUP_IDS:
        raise UserError(f"a group of {starts[-1]:,} tokens is too large: give fewer group_rows, or shorter rows")
    return Segment(
        native.lay_out(ids, begins + start, begins + stop + ahead, ids[:0], ids[:0]),
        starts.astype(np.int32),
        document.astype(np.uint32),
        start.astype(np.uint32),
        starts[np.searchsorted(row, np.arange(rows + 1))].astype(np.int32),
    )
