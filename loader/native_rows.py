"""Rows of a batch filled by compiled code (bamba_data/native.c), in one call and in one pass over their documents.

What comes out is, to the bit, what collate.py makes of the same pieces; that it stays so is tested (test_native_rows).
Where ids carry marks, documents are in quarantine, or ranks share rows, RowReader goes its own way.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bamba_data import native

from .collate import Arrays, needs_documents
from .packing.base import Packing, RowStart
from .packing.segment import Segment
from .packing.segments import SegmentCache

if TYPE_CHECKING:
    from .row_reader import RowLocations

SEGMENTS_KNOWN = 1 << 15
#: What compiled code makes, in the order in which it takes them, and its dtype.
MADE = {"input_ids": np.int64, "labels": np.int64, "position_ids": np.int64, "seq_idx": np.int32}


class Known(NamedTuple):
    """A segment, which must not be unmapped while it is read, as compiled code has it.

    Attributes:
        piece: All of it from where a row begins.
        last: The last place where a row begins that lies in it; -1 where rows are not cut anywhere.
        segment: What the addresses are of.
        ids: The address of its ids.
        starts: The address of where its documents begin.
    """

    piece: bytes
    last: int
    segment: Segment
    ids: int
    starts: int

    def row(self, number: int, wanted: int) -> list[bytes]:
        """A row of a segment of whole rows."""
        begin, end = self.segment.rows[number : number + 2].tolist()
        row = native.piece(self.ids, self.starts, len(self.segment.starts) - 1, end, begin)
        return [row] if end - begin >= wanted else [row, native.NO_PIECE]


class NativeRows:
    """Makes arrays of located rows. Threads may share it.

    Args:
        code: `native.CODE`.
        packings: Of each source, by its number.
        dtype: Of all ids.
        fields: The arrays to make.
        row_tokens: Of a row.
        max_epochs: A row that begins in a later epoch is masked; None masks none.
        segment: Gives the segment of a source at (epoch, position).
        cache: Where segments are kept.
    """

    def __init__(
        self,
        code: ctypes.CDLL,
        packings: Sequence[Packing],
        dtype: np.dtype[Any],
        fields: frozenset[str],
        row_tokens: int,
        max_epochs: int | None,
        segment: Callable[[int, int, int], Segment],
        cache: SegmentCache,
    ) -> None:
        self._code, self._packings, self._dtype, self._fields = code, packings, dtype, fields
        self._row_tokens, self._max_epochs = row_tokens, max_epochs
        self._segment, self._cache = segment, cache
        self._wanted = row_tokens + int(needs_documents(fields))
        self._known: dict[tuple[int, int, int], Known] = cache.memo()

    def arrays(self, locations: "RowLocations", padded: int) -> Arrays:
        """The arrays of rows, filled up with masked ones to `padded`, which is at least one."""
        rows, sources = locations.rows, locations.sources
        pieces: list[bytes] = []
        held: list[Known] = []
        known, most = self._known, self._max_epochs
        keys = zip(sources.tolist(), locations.epochs.tolist(), locations.positions.tolist(), strict=True)
        for key, begin in zip(keys, locations.tokens.tolist(), strict=True):
            found = known.get(key)
            if found is not None and begin <= found.last and (most is None or key[1] < most):
                pieces.append(found.piece)
                held.append(found)
            elif found is not None and len(found.segment.rows) and (most is None or key[1] < most):
                pieces += found.row(begin, self._wanted)
                held.append(found)
            else:
                self._add(key, begin, pieces, held)
        pieces += [native.NO_PIECE] * (padded - len(rows))
        arrays: Arrays = {}
        for name, column in (("row", rows), ("source", sources)):
            if name in self._fields:
                arrays[name] = np.full(padded, -1, np.int64)
                arrays[name][: len(rows)] = column
                if most is not None:
                    arrays[name][: len(rows)][locations.epochs >= most] = -1
        shape = (padded, self._row_tokens)
        outputs = [np.empty(shape, dtype) if name in self._fields else None for name, dtype in MADE.items()]
        arrays |= {name: made for name, made in zip(MADE, outputs, strict=True) if made is not None}
        bounds = np.empty(padded * self._row_tokens + 1, np.int32) if "cu_seqlens" in self._fields else None
        begins = locations.tokens if len(rows) else np.zeros(1, np.int64)
        count = native.rows(self._code, pieces, begins, self._dtype.itemsize, [*outputs, bounds], shape)
        if bounds is not None:
            arrays["cu_seqlens"] = bounds[:count].copy()
        return arrays

    def _add(self, key: tuple[int, int, int], begin: int, pieces: list[bytes], held: list[Known]) -> None:
        """The pieces of a row that is masked, runs across segments, or lies in one that is not known yet."""
        source, epoch, position = key
        filled = 0
        if self._max_epochs is None or epoch < self._max_epochs:
            start = RowStart(epoch, position, begin)
            segment = partial(self._segment, source)
            for piece in self._packings[source].parts(start, self._wanted, self._max_epochs, segment):
                known = self._know((source, piece.epoch, piece.position), piece.segment)
                end = piece.begin + piece.length
                documents = len(piece.segment.starts) - 1
                pieces.append(native.piece(known.ids, known.starts, documents, end, piece.begin))
                held.append(known)
                filled += piece.length
        if filled < self._wanted:
            pieces.append(native.NO_PIECE)

    def _know(self, key: tuple[int, int, int], segment: Segment) -> Known:
        known = self._known.get(key)
        if known is None or known.segment is not segment:
            ids, starts = segment.ids, segment.starts
            if ids.dtype != self._dtype or starts.dtype != np.int32:
                raise TypeError(f"ids of {ids.dtype} in a source of {self._dtype}")
            places = native.address(ids), native.address(starts)
            # A place in a segment of whole rows is a row's number, not a token's.
            last = -1 if len(segment.rows) else len(ids) - self._wanted
            known = Known(native.piece(*places, len(starts) - 1, len(ids)), last, segment, *places)
            if self._cache.mapped_only:  # else it would be kept in memory beyond what the cache counts
                if len(self._known) > SEGMENTS_KNOWN:
                    self._known.clear()
                self._known[key] = known
        return known
