"""From rows of the order to arrays: tokens, labels, positions, document numbers.

    input_ids     int64 [rows, T]
    labels        int64 [rows, T]   the next token of the same document, also past the row's end; -100 after the last
    position_ids  int64 [rows, T]   restart at each document and each row
    seq_idx       int32 [rows, T]   number of the document in its row, from 0
    row           int64 [rows]      global row index; -1 for a row that only fills up
    source        int64 [rows]      number of the source in the plan (`source_names`); -1 likewise
    cu_seqlens    int32 [n + 1]     where documents begin in the rows laid end to end, and the end

Masked tokens have label -100: fill, and documents in quarantine.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .global_order import Order
from .order.mixture import Rows
from .order.rank_split import rows_of_rank
from .order.stretches import Batch
from .packing.base import Packing, RowPiece, RowStart
from .packing.document_transforms import IDS
from .packing.segment import Segment
from .packing.segments import Layout, SegmentCache
from .packing.shared_segments import epochs_together
from .sources.base import Blocks

FIELDS = ("input_ids", "labels", "position_ids", "seq_idx", "row", "source", "cu_seqlens")
DEFAULT_FIELDS = FIELDS[:-1]
MASKED = -100
HELD_SEGMENTS = 1 << 15
AHEAD_ROWS = 4096  # of the order, whose places are found at once

Arrays = dict[str, NDArray[Any]]


class Placed(NamedTuple):
    """Rows of the order and where each begins; `sources` number the plan's `source_names`."""

    rows: Rows
    sources: Rows
    epochs: Rows
    positions: Rows
    tokens: Rows


class Span(NamedTuple):
    """Part of a row: tokens [at, at + tokens) of it are [start, start + tokens) of a document, delimiters counted."""

    at: int
    tokens: int
    source: str
    epoch: int
    block: int
    document: int
    start: int


@dataclass(frozen=True)
class Share:
    """Which rows of every batch are made: those of a rank; padded to the largest share, if asked."""

    rank: int
    world_size: int
    pad: bool = False


class RowReader:
    """Makes the arrays of batches. Threads may share it; it keeps the places of the rows that come next."""

    def __init__(
        self,
        order: Order,
        cache: SegmentCache,
        share: Share,
        fields: Sequence[str],
        max_epochs: int | None = None,
        ahead_rows: int = AHEAD_ROWS,
        micro_rows: int | None = None,
    ) -> None:
        self.order, self._cache, self._share = order, cache, share
        self._micro_rows = micro_rows
        self._fields, self._max_epochs = frozenset(fields), max_epochs
        self._needs_documents = bool(self._fields - {"input_ids", "row", "source"})
        self._names = list(order.plan.source_names)
        self._held = [order.source(name) for name in self._names]
        self._row_tokens = order.plan.header.row_tokens
        self._transformed = order.plan.header.transform is not None
        self._ahead_rows = ahead_rows
        self._ahead: dict[int, Placed] = {}
        self._placing = threading.Lock()
        self._segments: dict[tuple[int, int, int], Segment] = cache.memo()
        self._epoch_bytes = [_epoch_bytes(held.served) for held in self._held]

    def read(self, batch: Batch, micro: int = 0) -> Arrays:
        """This rank's rows of a batch; or of its micro-batch of this number, which has `micro_rows`, filled up."""
        share = -(-batch.rows // self._share.world_size)
        if self._micro_rows is None:
            found = self._place(batch, last=True)
            return self._arrays(found, share if self._share.pad else len(found.rows))
        first, end = micro * self._micro_rows, (micro + 1) * self._micro_rows
        found = self._place(batch, last=end >= share)
        return self._arrays(Placed(*(column[first:end] for column in found)), self._micro_rows)

    def _place(self, batch: Batch, last: bool) -> Placed:
        """From what was placed ahead; else this batch and those that come after it. `last`: it is not needed again."""
        with self._placing:
            if batch.first_row not in self._ahead:
                late = {row: placed for row, placed in self._ahead.items() if row < batch.first_row}
                self._ahead = (late if len(late) < 64 else {}) | self._place_ahead(batch)
            return self._ahead.pop(batch.first_row) if last else self._ahead[batch.first_row]

    def _place_ahead(self, batch: Batch) -> dict[int, Placed]:
        stretch = batch.stretch
        whole = max(1, min(self._ahead_rows, stretch.end - batch.first_row) // stretch.batch_rows)
        count = min(whole * stretch.batch_rows, stretch.end - batch.first_row)
        sources, ordinals = self.order.ordinals(Batch(batch.first_row, count, stretch))
        firsts = range(batch.first_row, batch.first_row + count, stretch.batch_rows)
        share = self._share
        owns = [
            rows_of_rank(first, stretch.batch_rows, share.rank, share.world_size, stretch.lattice) for first in firsts
        ]
        rows = np.concatenate(owns)
        here = rows - batch.first_row
        numbers = np.array([self._names.index(name) for name in stretch.sources])[sources[here]]
        placed = self.place(rows, numbers, ordinals[here])
        cuts = accumulate((len(one) for one in owns), initial=0)
        return {
            first: Placed(*(column[low:high] for column in placed))
            for first, (low, high) in zip(firsts, pairwise(cuts), strict=True)
        }

    def place(self, rows: Rows, sources: Rows, ordinals: Rows) -> Placed:
        """Where rows begin, given their sources and ordinals there."""
        found = Placed(rows, sources, *(np.empty_like(rows) for _ in range(3)))
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            places = self._held[source].stream.places(ordinals[mine])
            found.epochs[mine], found.positions[mine], found.tokens[mine] = places
        return found

    # ---- one row

    def _segment(self, source: int, epoch: int, position: int) -> Segment:
        """The one at a position of an epoch."""
        place = (source, epoch, position)
        found = self._segments.get(place)
        if found is None:
            if len(self._segments) > HELD_SEGMENTS:
                self._segments.clear()
            together = epochs_together(epoch, self._epoch_bytes[source])
            if len(together) > 1 and (shared := self._shared(source, together)) is not None:
                return shared[(epoch - together.start) * len(self._held[source].stream.lengths) + position]
            held = self._held[source]
            found = self._cache.get(held.served, held.packing.layout(epoch, position))
            if self._cache.mapped_only:
                self._segments[place] = found
        return found

    def _shared(self, source: int, epochs: range) -> list[Segment] | None:
        """Those of all positions of some epochs, which lie in one file."""
        packing = self._held[source].packing
        positions = range(len(packing.stream.lengths))

        def layouts() -> list[Layout]:
            return [packing.layout(epoch, position) for epoch in epochs for position in positions]

        blocks = self._held[source].served
        found = self._cache.get_shared(blocks, (blocks.identity, id(packing), epochs), layouts)
        if found is not None:
            every = ((source, epoch, position) for epoch in epochs for position in positions)
            self._segments.update(zip(every, found, strict=True))
        return found

    def _fill(self, out: NDArray[Any], source: int, begin: RowStart, documents: bool = True) -> "_Row":
        """Copy a row, and its look-ahead if `out` has room, into `out`; where documents begin in it, if asked."""
        at = 0
        starts: list[NDArray[np.int64]] = []
        pieces: list[tuple[int, RowPiece]] = []
        packing = self._held[source].packing
        for part in packing.parts(begin, len(out), self._max_epochs, partial(self._segment, source)):
            segment, token, count = part.segment, part.begin, part.length
            out[at : at + count] = segment.ids[token : token + count]
            if documents:
                low, high = segment.starts[:-1].searchsorted((token, token + count))
                if high > low:
                    starts.append(segment.starts[low:high].astype(np.int64) + (at - token))
                pieces.append((at, part))
            at += count
        out[at:] = 0
        return _Row(at, starts, pieces)

    def _spans(self, made: "_Row", source: int) -> list[Span]:
        return _spans(made, self._names[source], self._held[source].packing, self._row_tokens)

    def _mask(self, labels: NDArray[Any], row: int, source: int, made: "_Row") -> None:
        held = self._held[source]
        for span in self._spans(made, source):
            if held.masked_from.get((span.block, span.document), row + 1) <= row:
                labels[span.at : span.at + span.tokens] = MASKED

    # ---- a batch

    def _arrays(self, placed: Placed, padded: int) -> Arrays:
        count, length = len(placed.rows), self._row_tokens
        ahead = int(self._needs_documents)  # ids alone need no token of look-ahead, and go where they belong at once
        buffer = np.empty((padded, length + ahead), self.order.dtype if ahead else np.int64)
        rows, sources = np.full(padded, -1, np.int64), np.full(padded, -1, np.int64)
        made: list[_Row] = []
        columns = zip(*(column.tolist() for column in placed), strict=True)
        for place, (row, source, epoch, position, token) in enumerate(columns):
            if self._max_epochs is None or epoch < self._max_epochs:
                rows[place], sources[place] = row, source
                made.append(self._fill(buffer[place], source, RowStart(epoch, position, token), self._needs_documents))
            else:
                made.append(_EMPTY)
                buffer[place] = 0
        made += [_EMPTY] * (padded - count)
        buffer[count:] = 0
        out: Arrays = {name: column for name, column in (("row", rows), ("source", sources)) if name in self._fields}
        if "input_ids" in self._fields:
            out["input_ids"] = buffer[:, :length].astype(np.int64) if ahead else buffer
            if self._transformed:
                out["input_ids"] &= int(IDS)
        if not ahead:
            return out
        begins = _begins(made, length)
        if "labels" in self._fields:
            out["labels"] = self._labels(buffer, begins, made, rows, sources)
        inside = begins[begins % (length + 1) < length]
        flat = inside - inside // (length + 1)  # without the look-ahead column
        if self._fields & {"position_ids", "seq_idx", "cu_seqlens"}:
            out |= _documents(flat, padded, length, self._fields)
        return out

    def _labels(
        self, buffer: NDArray[Any], begins: Rows, made: Sequence["_Row"], rows: Rows, sources: Rows
    ) -> NDArray[np.int64]:
        length = self._row_tokens
        labels = buffer[:, 1:].astype(np.int64)
        if self._transformed:
            labels[labels > int(IDS)] = MASKED
        column = begins % (length + 1)
        ends = begins[column > 0]
        labels[ends // (length + 1), ends % (length + 1) - 1] = MASKED
        for place, one in enumerate(made):
            if one.filled <= length:
                labels[place, max(0, one.filled - 1) :] = MASKED
            if one.pieces and self._held[sources[place]].masked_from:
                self._mask(labels[place], int(rows[place]), int(sources[place]), one)
        return labels

    # ---- lineage

    def spans(self, batch: Batch, row: int) -> list[Span]:
        """Where each part of a row came from. `row` is one that the batch's rank has."""
        placed = self._place_ahead(batch)[batch.first_row]
        index = int(np.flatnonzero(placed.rows == row)[0])
        source = int(placed.sources[index])
        out = np.zeros(self._row_tokens + 1, self.order.dtype)
        begin = RowStart(int(placed.epochs[index]), int(placed.positions[index]), int(placed.tokens[index]))
        return self._spans(self._fill(out, source, begin), source)


def _epoch_bytes(blocks: Blocks) -> int:
    """Of all segments of an epoch, nearly."""
    return int(blocks.tokens.sum()) * blocks.dtype.itemsize + 12 * int(blocks.documents.sum())


class _Row(NamedTuple):
    """`filled` of its T + 1 tokens are of documents; `starts` of documents, in parts; what it was copied from."""

    filled: int
    starts: list[NDArray[np.int64]]
    pieces: list[tuple[int, RowPiece]]


_EMPTY = _Row(0, [], [])


def _begins(made: Sequence[_Row], length: int) -> Rows:
    """Where documents begin in rows of `length` + 1 laid end to end: ascending, every row's begin and end of filling
    among them."""
    parts: list[Any] = []
    for place, row in enumerate(made):
        base = place * (length + 1)
        if not row.starts or row.starts[0][0] != 0:
            parts.append(np.array([base]))
        parts += [part + base for part in row.starts]
        if 0 < row.filled <= length:
            parts.append(np.array([base + row.filled]))
    if not parts:
        return np.empty(0, np.int64)
    found = np.concatenate(parts)
    new = np.empty(len(found), np.bool_)
    new[0] = True
    np.not_equal(found[1:], found[:-1], out=new[1:])
    return found[new]  # a document without tokens begins where the next does


def _documents(flat: Rows, rows: int, length: int, fields: frozenset[str]) -> Arrays:
    """Positions and numbers of documents that begin at `flat`, in rows laid end to end."""
    out: Arrays = {}
    bounds = np.append(flat, rows * length)
    lengths = bounds[1:] - bounds[:-1]
    if "position_ids" in fields:
        positions = np.arange(rows * length)
        positions -= np.repeat(flat, lengths)
        out["position_ids"] = positions.reshape(rows, length)
    if "seq_idx" in fields:
        row = flat // length
        firsts = np.searchsorted(row, np.arange(rows))
        numbers = (np.arange(len(flat)) - firsts[row]).astype(np.int32)
        out["seq_idx"] = np.repeat(numbers, lengths).reshape(rows, length)
    if "cu_seqlens" in fields:
        out["cu_seqlens"] = bounds.astype(np.int32)
    return out


def _spans(made: _Row, source: str, packing: Packing, row_tokens: int) -> list[Span]:
    found: list[Span] = []
    for at, (segment, epoch, position, token, count) in made.pieces:
        low, high = token, token + min(count, row_tokens - at)  # without the look-ahead
        first = int(segment.starts.searchsorted(low, "right")) - 1
        for index in range(first, len(segment.documents)):
            begin, end = max(low, int(segment.starts[index])), min(high, int(segment.starts[index + 1]))
            if begin >= high:
                break
            if end > begin:
                start = begin - int(segment.starts[index])
                start += int(segment.offsets[index]) if len(segment.offsets) else 0
                document = packing.document(epoch, position, int(segment.documents[index]))
                found.append(Span(at + begin - token, end - begin, source, epoch, *document, start))
    return found
