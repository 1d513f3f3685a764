"""One source as an endless stream of tokens, cut into rows: where every row of it begins, by arithmetic.

    tokens  a document's, with its delimiters; a document held out has none
    epoch   every block once, in an order of its own; within a block every document once, in an order of its own. Block
            totals do not depend on the inner order, so a prefix sum over permuted blocks finds any token
    row     row o is the stream's tokens [o T, o T + T], the last of them only a label. Epoch e, which begins at token
            S(e), owns the rows that start in it: from ceil(S(e) / T) to ceil(S(e+1) / T) - 1. The last one ends in
            epoch e + 1, so that nothing is lost, repeated or padded
    window  so many rows of an epoch in sequence, served in an order of their own: neighbours in a block are then no
            neighbours in a batch

An epoch's order is the same whoever reads it and whenever. What is left out from some epoch on (quarantine) keeps its
place with no tokens, and all else stays where it was.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property

from .permutation import Permutation, derive_key

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class RemovedTokens:
    """What is not in the stream from `epoch` on: so many tokens of a block (or rows of a group of blocks)."""

    epoch: int
    block: int
    tokens: int

    def cache_key(self) -> str:
        """In the name of a file of a kept epoch: keeps its words, see `segments.Layout.cache_key`."""
        return f"Removed(epoch={self.epoch!r}, block={self.block!r}, tokens={self.tokens!r})"


class RowLocations(NamedTuple):
    """Where rows begin, int64 [rows] each: epoch, position of the block in its order, token in that block."""

    epoch: Longs
    position: Longs
    token: Longs


class Epoch(NamedTuple):
    """Blocks in their order, uint32 [blocks], and where each ends, int64 [blocks], in tokens from the epoch's begin."""

    order: NDArray[np.uint32]
    ends: Longs


@dataclass(frozen=True)
class Stream:
    """A source as an endless stream.

    Attributes:
        lengths: int64 [blocks], tokens of each block in the stream, delimiters counted, held-out documents not.
        row_tokens: T, tokens from the begin of a row to that of the next.
        window_rows: the most rows that are shuffled together.
        key: from (seed, source); None serves the order stored.
        removed: what later epochs are without, sorted (`sorted_removals`).
        keep: gives the epoch of a number, made by the function that it is given or read from where it was kept.
    """

    lengths: Longs
    row_tokens: int
    window_rows: int
    key: int | None
    removed: tuple[RemovedTokens, ...] = ()
    keep: Callable[[int, Callable[[], Epoch]], Epoch] = field(default=lambda epoch, make: make(), compare=False)
    _epochs: dict[int, Epoch] = field(default_factory=dict, init=False, compare=False, repr=False)

    def lengths_in(self, epoch: int) -> Longs:
        """Tokens of each block in an epoch."""
        removed = [part for part in self.removed if part.epoch <= epoch]
        if not removed:
            return self.lengths
        lengths = np.array(self.lengths)
        for part in removed:
            lengths[part.block] -= part.tokens
        return lengths

    def epoch(self, number: int) -> Epoch:
        """The order of an epoch's blocks. The last few are remembered: rows of a batch lie in few epochs."""
        if number not in self._epochs:
            if len(self._epochs) >= 4:  # 12 bytes a block each
                self._epochs.clear()
            self._epochs[number] = self.keep(number, lambda: self._make(number))
        return self._epochs[number]

    def _make(self, number: int) -> Epoch:
        order = np.arange(len(self.lengths), dtype=np.uint64)
        if self.key is not None:
            order = Permutation(len(order), derive_key(self.key, "blocks", number))(order)
        return Epoch(order.astype(np.uint32), np.cumsum(self.lengths_in(number)[order]))

    # ---- epochs and rows

    @cached_property
    def _eras(self) -> list[tuple[int, int, int]]:
        """(first epoch, its first token, tokens of each epoch) wherever the tokens of an epoch change."""
        total = int(self.lengths.sum())
        removed_tokens = Counter({0: 0})
        for part in self.removed:
            removed_tokens[part.epoch] += part.tokens
        eras = [(0, 0, 0)]
        for epoch in sorted(removed_tokens):
            first, token, tokens = eras[-1]
            total -= removed_tokens[epoch]
            eras.append((epoch, token + (epoch - first) * tokens, total))
        return eras[1:]

    @property
    def epoch_tokens(self) -> int:
        """Of the first epoch."""
        return self._eras[0][2]

    @cached_property
    def ended(self) -> int | None:
        """The first epoch that has no tokens, for all were removed: then no later one has any."""
        first, _, tokens = self._eras[-1]
        return first if tokens == 0 else None

    def first_token(self, epoch: int) -> int:
        """Where an epoch begins in the stream, in tokens."""
        first, token, tokens = max(era for era in self._eras if era[0] <= epoch)
        return token + (epoch - first) * tokens

    def first_row(self, epoch: int) -> int:
        """The first row that an epoch owns."""
        return -(-self.first_token(epoch) // self.row_tokens)

    def epoch_of(self, rows: Longs) -> Longs:
        """The epoch that owns each row: int64, of the shape of `rows`."""
        tokens = rows * self.row_tokens
        epochs = np.zeros_like(rows)
        for epoch, first, length in self._eras:
            here = tokens >= first
            epochs[here] = epoch + (tokens[here] - first) // length if length else epoch
        return epochs

    def epochs_in(self, rows: int) -> float:
        """How often this many rows have been through the source: 1.5 is the middle of the second epoch."""
        epoch = int(self.epoch_of(np.array([rows]))[0])
        begin, end = self.first_token(epoch), self.first_token(epoch + 1)
        return epoch + (rows * self.row_tokens - begin) / max(1, end - begin)

    def places(self, rows: Longs) -> RowLocations:
        """Where the rows of these ordinals, int64 [rows], begin, after the shuffle within windows."""
        epochs = self.epoch_of(rows)
        positions, tokens = np.empty_like(rows), np.empty_like(rows)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            starts = self._shuffled(epoch, rows[here]) * self.row_tokens - self.first_token(epoch)
            ends = self.epoch(epoch).ends
            position = np.searchsorted(ends, starts, "right")  # past blocks without tokens, too
            positions[here] = position
            tokens[here] = starts - np.where(position > 0, ends[position - 1], 0)
        return RowLocations(epochs, positions, tokens)

    def _shuffled(self, epoch: int, rows: Longs) -> Longs:
        """Rows of one epoch, each sent to another of its window."""
        if self.key is None:
            return rows
        windows = self._window_of(epoch, rows)
        shuffled = np.empty_like(rows)
        for window in np.unique(windows).tolist():
            here = windows == window
            first, order = self._window(self.key, epoch, window)
            shuffled[here] = order(rows[here] - first).astype(np.int64) + first
        return shuffled

    def served_at(self, epoch: int, row: int) -> int:
        """The ordinal that a row of the stream is served under: the inverse of the shuffle."""
        if self.key is None:
            return row
        first, order = self._window(self.key, epoch, int(self._window_of(epoch, np.array([row]))[0]))
        return int(order.inverse(row - first)) + first

    def _windows(self, epoch: int) -> tuple[int, int, int]:
        """An epoch's first row, its rows, and its windows: as few as may be, of nearly equal size, so that no window is
        a small rest whose rows hardly move."""
        first, end = self.first_row(epoch), self.first_row(epoch + 1)
        return first, end - first, -(-(end - first) // self.window_rows)

    def _window_of(self, epoch: int, rows: Longs) -> Longs:
        """The number of each row's window: the j with j rows // windows <= row < (j + 1) rows // windows."""
        first, count, windows = self._windows(epoch)
        return ((rows - first + 1) * windows - 1) // count

    def _window(self, key: int, epoch: int, window: int) -> tuple[int, Permutation]:
        """The first row of a window, and the permutation of its rows."""
        first, count, windows = self._windows(epoch)
        low, high = window * count // windows, (window + 1) * count // windows
        return first + low, _permutation(high - low, derive_key(key, "rows", epoch, window))


@lru_cache(maxsize=256)
def _permutation(n: int, key: int) -> Permutation:
    return Permutation(n, key)


def document_order(key: int | None, epoch: int, block: int, documents: int) -> NDArray[np.int64]:
    """The documents of a block in the order of an epoch: int64 [documents], the document at each place."""
    if key is None or documents == 0:
        return np.arange(documents)
    order = Permutation(documents, derive_key(key, "documents", epoch, block))
    return order(np.arange(documents, dtype=np.uint64)).astype(np.int64)


def sorted_removals(removed: Iterable[RemovedTokens]) -> tuple[RemovedTokens, ...]:
    """In a fixed order, so that equal sets give equal streams, and equal names of cached epochs."""
    return tuple(sorted(removed, key=lambda part: (part.epoch, part.block, part.tokens)))
