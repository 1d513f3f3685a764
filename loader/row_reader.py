"""Rows of the order, read: where each begins is found by arithmetic, its ids are copied out of segments.

`RowReader` makes the arrays of a rank's part of a batch, or of any rows by their global numbers. Both go the same way,
so that a row is the same whoever asks for it.
"""

import threading
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bamba_data import native

from .collate import (
    MASKED,
    NO_ROW,
    Arrays,
    FilledRow,
    count_over_the_row,
    document_arrays,
    document_starts,
    labels_of,
    needs_documents,
)
from .global_order import Order
from .native_rows import NativeRows
from .order.mixture import Rows
from .order.rank_split import rows_of_rank
from .order.stretches import Batch
from .packing.base import RowPiece, RowStart
from .packing.document_transforms import IDS, has_marks
from .packing.segment import Segment
from .packing.segments import Layout, SegmentCache
from .packing.shared_segments import epochs_together
from .reading import Reading, Share
from .sources.base import Blocks
from .spans import Span, spans_of

SEGMENTS_KEPT = 1 << 15  # 256 kB of references; their memory is the mapped cache's
AHEAD_ROWS = 4096  # rows of the order that are located at once: numpy's overhead is spread over them


class RowLocations(NamedTuple):
    """Rows of the order and where each begins, an element a row; `sources` number the plan's `source_names`."""

    rows: Rows
    sources: Rows
    epochs: Rows
    positions: Rows
    tokens: Rows


class RowReader:
    """Makes the arrays of rows. Threads may share it; it keeps the locations of the rows that come next.

    Args:
        order: Which row comes at which place.
        cache: Where segments are kept.
        share: Which rows of a batch are made, and which part of each.
        fields: The arrays to make.
        max_epochs: A row that begins in a later epoch is masked; None masks none.
        ahead_rows: Rows of the order that are located at once.
        micro_rows: Rows of a micro-batch; None hands a rank's part of a batch out whole.
    """

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
        self.order, self.cache, self._share = order, cache, share
        self._micro_rows = micro_rows
        self._fields, self._max_epochs = frozenset(fields), max_epochs
        self._needs_documents = needs_documents(self._fields)
        self._names = list(order.plan.source_names)
        self._sources = [order.source(name) for name in self._names]
        self._row_tokens = order.plan.header.row_tokens
        self._part_tokens = share.part_tokens(self._row_tokens)
        self._first_token = share.part * self._part_tokens
        self._is_marked = any(has_marks(source.served) for source in self._sources)
        self._ahead_rows = ahead_rows
        self._ahead: dict[int, RowLocations] = {}
        self._ahead_lock = threading.Lock()
        self._segments: dict[tuple[int, int, int], Segment] = cache.memo()
        self._epoch_bytes = [_epoch_bytes(source.served) for source in self._sources]
        is_plain = not (self._is_marked or any(source.masked_from for source in self._sources))
        self._native = None
        if native.CODE is not None and is_plain and self._part_tokens == self._row_tokens:
            packings = [source.packing for source in self._sources]
            self._native = NativeRows(
                native.CODE, packings, order.dtype, self._fields, self._row_tokens, max_epochs, self._segment, cache
            )

    @classmethod
    def of(cls, order: Order, reading: Reading, share: Share | None = None) -> "RowReader":
        """As `reading` says; of another `share` than its rank's, if one is given."""
        cache = SegmentCache(reading.folder / "segments" if reading.folder else None, reading.cache_bytes)
        return cls(
            order, cache, share or reading.share, reading.fields, reading.max_epochs, micro_rows=reading.micro_rows
        )

    def read(self, batch: Batch, micro: int = 0) -> Arrays:
        """This rank's rows of a batch; or of its micro-batch of this number, which has `micro_rows`, filled up."""
        largest = -(-batch.rows // self._share.world_size)  # rows of the rank that has most
        if self._micro_rows is None:
            locations = self._locate_ahead(batch, last=True)
            return self._arrays(locations, largest if self._share.pad else len(locations.rows))
        first, end = micro * self._micro_rows, (micro + 1) * self._micro_rows
        locations = self._locate_ahead(batch, last=end >= largest)
        return self._arrays(RowLocations(*(column[first:end] for column in locations)), self._micro_rows)

    def read_rows(self, rows: Sequence[int]) -> Arrays:
        """Rows of any numbers, in any order, of all ranks. Each must be one that the plan serves."""
        wanted = np.array(rows, np.int64)
        sources, ordinals = np.empty_like(wanted), np.empty_like(wanted)
        by_stretch: dict[int, list[int]] = {}
        stretches = {}
        for place, row in enumerate(rows):
            batch = self.order.plan.batch_of(row)
            assert batch is not None, f"row {row} is skipped"
            stretches[batch.stretch.first_row] = batch.stretch
            by_stretch.setdefault(batch.stretch.first_row, []).append(place)
        for first_row, places in by_stretch.items():
            stretch = stretches[first_row]
            here = wanted[places]
            sources[places] = self._numbers(stretch.sources)[stretch.lattice.sources(here)]
            ordinals[places] = stretch.lattice.ordinals(here)
        return self._arrays(self.locate(wanted, sources, ordinals), len(rows))

    def spans(self, batch: Batch, row: int) -> list[Span]:
        """Where each part of a row came from. `row` is one that the batch's rank has."""
        locations = self._locate_from(batch)[batch.first_row]
        index = int(np.flatnonzero(locations.rows == row)[0])
        source = int(locations.sources[index])
        ids = np.zeros(self._row_tokens + 1, self.order.dtype)
        begin = RowStart(int(locations.epochs[index]), int(locations.positions[index]), int(locations.tokens[index]))
        return self._spans(self._fill(ids, source, begin), source)

    # ---- where rows begin

    def locate(self, rows: Rows, sources: Rows, ordinals: Rows) -> RowLocations:
        """Where rows begin, given their sources and their ordinals there."""
        locations = RowLocations(rows, sources, *(np.empty_like(rows) for _ in range(3)))
        for source in np.unique(sources).tolist():
            here = np.flatnonzero(sources == source)
            places = self._sources[source].stream.places(ordinals[here])
            locations.epochs[here], locations.positions[here], locations.tokens[here] = places
        return locations

    def _locate_ahead(self, batch: Batch, last: bool) -> RowLocations:
        """This rank's rows of a batch, located with those of the batches after it. `last`: not needed again."""
        with self._ahead_lock:
            if batch.first_row not in self._ahead:
                late = {row: known for row, known in self._ahead.items() if row < batch.first_row}
                self._ahead = (late if len(late) < 64 else {}) | self._locate_from(batch)
            return self._ahead.pop(batch.first_row) if last else self._ahead[batch.first_row]

    def _locate_from(self, batch: Batch) -> dict[int, RowLocations]:
        """Of this rank, by the first row of each batch."""
        stretch = batch.stretch
        batches = max(1, min(self._ahead_rows, stretch.end - batch.first_row) // stretch.batch_rows)
        count = min(batches * stretch.batch_rows, stretch.end - batch.first_row)
        sources, ordinals = self.order.ordinals(Batch(batch.first_row, count, stretch))
        firsts = range(batch.first_row, batch.first_row + count, stretch.batch_rows)
        share = self._share
        rows_by_batch = [
            rows_of_rank(first, stretch.batch_rows, share.rank, share.world_size, stretch.lattice) for first in firsts
        ]
        rows = np.concatenate(rows_by_batch)
        here = rows - batch.first_row
        locations = self.locate(rows, self._numbers(stretch.sources)[sources[here]], ordinals[here])
        cuts = accumulate((len(rows) for rows in rows_by_batch), initial=0)
        return {
            first: RowLocations(*(column[low:high] for column in locations))
            for first, (low, high) in zip(firsts, pairwise(cuts), strict=True)
        }

    def _numbers(self, names: Sequence[str]) -> Rows:
        """Sources of one mix by their numbers in the whole plan."""
        return np.array([self._names.index(name) for name in names])

    # ---- one row

    def _segment(self, source: int, epoch: int, position: int) -> Segment:
        """The one at a position of an epoch."""
        key = (source, epoch, position)
        segment = self._segments.get(key)
        if segment is None:
            if len(self._segments) > SEGMENTS_KEPT:
                self._segments.clear()
            planned = self._sources[source]
            together = epochs_together(epoch, self._epoch_bytes[source])
            if len(together) > 1 and (shared := self._shared_segments(source, together)) is not None:
                return shared[(epoch - together.start) * len(planned.stream.lengths) + position]
            segment = self.cache.get(planned.served, planned.packing.layout(epoch, position))
            if self.cache.mapped_only:  # else it would be kept in memory beyond what the cache counts
                self._segments[key] = segment
        return segment

    def _shared_segments(self, source: int, epochs: range) -> list[Segment] | None:
        """Those of all positions of some epochs, which lie in one file: of a source whose epochs are tiny."""
        packing, blocks = self._sources[source].packing, self._sources[source].served
        positions = range(len(packing.stream.lengths))

        def layouts() -> list[Layout]:
            return [packing.layout(epoch, position) for epoch in epochs for position in positions]

        segments = self.cache.get_shared(blocks, (blocks.identity, id(packing), epochs), layouts)
        if segments is not None:
            keys = ((source, epoch, position) for epoch in epochs for position in positions)
            self._segments.update(zip(keys, segments, strict=True))
        return segments

    def _fill(
        self, ids: NDArray[Any], source: int, begin: RowStart, documents: bool = True, first: int = 0
    ) -> FilledRow:
        """Copy a row, or its tokens from `first` on, into `ids` as far as there is room, which a look-ahead may have;
        with where documents begin from the row's begin on, if asked. Nothing behind is looked at."""
        at = 0
        starts: list[NDArray[np.int64]] = []
        pieces: list[tuple[int, RowPiece]] = []
        packing = self._sources[source].packing
        for piece in packing.parts(begin, first + len(ids), self._max_epochs, partial(self._segment, source)):
            segment, token, count = piece.segment, piece.begin, piece.length
            if at + count > first:
                wanted = max(at, first)
                ids[wanted - first : at + count - first] = segment.ids[token + wanted - at : token + count]
            if documents:
                low, high = segment.starts[:-1].searchsorted((token, token + count))
                if high > low:
                    starts.append(segment.starts[low:high].astype(np.int64) + (at - token))
                pieces.append((at, piece))
            at += count
        ids[max(0, at - first) :] = 0
        return FilledRow(at, starts, pieces)

    def _spans(self, row: FilledRow, source: int) -> list[Span]:
        return spans_of(row.pieces, self._names[source], self._sources[source].packing, self._row_tokens)

    # ---- arrays

    def _arrays(self, locations: RowLocations, padded: int) -> Arrays:
        """The arrays of rows, filled up with masked ones to `padded`."""
        if self._native is not None and padded:
            return self._native.arrays(locations, padded)
        count, tokens, first = len(locations.rows), self._part_tokens, self._first_token
        ahead = int(self._needs_documents)  # ids alone need no token of look-ahead, and go where they belong at once
        ids = np.empty((padded, tokens + ahead), self.order.dtype if ahead else np.int64)
        rows, sources = np.full(padded, -1, np.int64), np.full(padded, -1, np.int64)
        filled = [NO_ROW] * padded
        columns = zip(*(column.tolist() for column in locations), strict=True)
        for place, (row, source, epoch, position, token) in enumerate(columns):
            if self._max_epochs is None or epoch < self._max_epochs:
                rows[place], sources[place] = row, source
                begin = RowStart(epoch, position, token)
                filled[place] = self._fill(ids[place], source, begin, self._needs_documents, first)
            else:
                ids[place] = 0
        ids[count:] = 0
        arrays: Arrays = {name: column for name, column in (("row", rows), ("source", sources)) if name in self._fields}
        if "input_ids" in self._fields:
            arrays["input_ids"] = ids[:, :tokens].astype(np.int64) if ahead else ids
            if self._is_marked:
                arrays["input_ids"] &= int(IDS)
        if not ahead:
            return arrays
        parts = [row.part(first, tokens) for row in filled] if first else []
        filled = [part.filled for part in parts] if first else filled
        starts = document_starts(filled, tokens)
        if "labels" in self._fields:
            arrays["labels"] = labels_of(ids, starts, filled, self._is_marked)
            for place, (row, source) in enumerate(zip(rows.tolist(), sources.tolist(), strict=True)):
                if filled[place].pieces and self._sources[source].masked_from:
                    self._mask(arrays["labels"][place], row, source, filled[place])
        arrays |= document_arrays(starts, padded, tokens, self._fields)
        if first:
            count_over_the_row(arrays, starts, parts)
        return arrays

    def _mask(self, labels: NDArray[Any], row: int, source: int, filled: FilledRow) -> None:
        """Mask the documents of a row that are in quarantine when it is served; labels are of this rank's part."""
        masked_from = self._sources[source].masked_from
        for span in self._spans(filled, source):
            if masked_from.get((span.block, span.document), row + 1) <= row:
                begin, end = (max(0, place - self._first_token) for place in (span.at, span.at + span.tokens))
                labels[begin:end] = MASKED


def _epoch_bytes(blocks: Blocks) -> int:
    """Of all segments of an epoch, nearly: ids, and 12 bytes a document for its start, number and offset."""
    return int(blocks.tokens.sum()) * blocks.dtype.itemsize + 12 * int(blocks.documents.sum())
