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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .permutation import Permutation, derive_key

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class RemovedTokens:
    """What is not in the stream from `epoch` on: so many tokens of a block, delimiters counted."""

    epoch: int
    block: int
    tokens: int

    def cache_key(self) -> str:
        """In the name of a file of a kept epoch: keeps its words, see `segments.Layout.cache_key`."""
        return f"Removed(epoch={self.epoch!r}, block={self.block!r}, tokens={self.tokens!r})"


class RowLocations(NamedTuple):
    """Where rows begin: epoch, position of the block in the epoch's order, and token in that block."""

    epoch: Longs
    position: Longs
    token: Longs


class Epoch(NamedTuple):
    """Blocks in their order, and where each ends, in tokens from the epoch's begin."""

    order: NDArray[np.uint32]
    ends: Longs


@dataclass(frozen=True)
class Stream:
    """`lengths` are the tokens that each block has in the stream, delimiters counted, held-out documents not.

    `key` is from (seed, source), None for the order stored; `keep` may store the orders of epochs (a mapped file, for
    large sources).
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
        removed = [one for one in self.removed if one.epoch <= epoch]
        if not removed:
            return self.lengths
        found = np.array(self.lengths)
        for one in removed:
            found[one.block] -= one.tokens
        return found

    def epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            if len(self._epochs) >= 4:
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
    def _pieces(self) -> list[tuple[int, int, int]]:
        """(first epoch, its first token, tokens of each epoch) wherever the tokens of an epoch change."""
        total = int(self.lengths.sum())
        changes: dict[int, int] = {0: 0}
        for one in self.removed:
            changes[one.epoch] = changes.get(one.epoch, 0) + one.tokens
        pieces: list[tuple[int, int, int]] = []
        for epoch in sorted(changes):
            total -= changes[epoch]
            before = pieces[-1] if pieces else (0, 0, 0)
            pieces.append((epoch, before[1] + (epoch - before[0]) * before[2], total))
        return pieces

    @property
    def epoch_tokens(self) -> int:
        """Of the first epoch."""
        return self._pieces[0][2]

    @cached_property
    def ended(self) -> int | None:
        """The first epoch that has no tokens, for all were removed: then no later one has any."""
        return self._pieces[-1][0] if self._pieces[-1][2] == 0 else None

    def first_token(self, epoch: int) -> int:
        """Where an epoch begins in the stream."""
        first, token, length = max(piece for piece in self._pieces if piece[0] <= epoch)
        return token + (epoch - first) * length

    def first_row(self, epoch: int) -> int:
        """The first row that an epoch owns."""
        return -(-self.first_token(epoch) // self.row_tokens)

    def epoch_of(self, rows: Longs) -> Longs:
        """The epoch that owns each row."""
        tokens = rows * self.row_tokens
        found = np.zeros_like(rows)
        for epoch, first, length in self._pieces:
            here = tokens >= first
            if length == 0:
                found[here] = epoch
            else:
                found[here] = epoch + (tokens[here] - first) // length
        return found

    def epochs_in(self, rows: int) -> float:
        """How often this many rows have been through the source: 1.5 is the middle of the second epoch."""
        epoch = int(self.epoch_of(np.array([rows]))[0])
        begin, end = self.first_token(epoch), self.first_token(epoch + 1)
        return epoch + (rows * self.row_tokens - begin) / max(1, end - begin)

    def places(self, rows: Longs) -> RowLocations:
        """Where the rows of these ordinals begin, after the shuffle within windows."""
        epochs = self.epoch_of(rows)
        positions, tokens = np.empty_like(rows), np.empty_like(rows)
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            starts = self._shuffled(epoch, rows[here]) * self.row_tokens - self.first_token(epoch)
            ends = self.epoch(epoch).ends
            found = np.searchsorted(ends, starts, "right")
            positions[here] = found
            tokens[here] = starts - np.where(found > 0, ends[found - 1], 0)
        return RowLocations(epochs, positions, tokens)

    def _shuffled(self, epoch: int, rows: Longs) -> Longs:
        """Rows of one epoch, each sent to another of its window. Windows are of nearly equal size."""
        if self.key is None:
            return rows
        first, end = self.first_row(epoch), self.first_row(epoch + 1)
        count = end - first
        windows = -(-count // self.window_rows)
        number = ((rows - first + 1) * windows - 1) // count  # the window j with bounds j count // windows
        found = np.empty_like(rows)
        for window in np.unique(number).tolist():
            here = number == window
            low, high = window * count // windows, (window + 1) * count // windows
            order = _permutation(high - low, derive_key(self.key, "rows", epoch, window))
            found[here] = order(rows[here] - (first + low)).astype(np.int64) + (first + low)
        return found

    def served_at(self, epoch: int, row: int) -> int:
        """The ordinal that a row of the stream is served under: the inverse of the shuffle."""
        if self.key is None:
            return row
        first, end = self.first_row(epoch), self.first_row(epoch + 1)
        windows = -(-(end - first) // self.window_rows)
        window = ((row - first + 1) * windows - 1) // (end - first)
        low, high = window * (end - first) // windows, (window + 1) * (end - first) // windows
        order = _permutation(high - low, derive_key(self.key, "rows", epoch, window))
        return int(order.inverse(row - first - low)) + first + low


@lru_cache(maxsize=256)
def _permutation(n: int, key: int) -> Permutation:
    return Permutation(n, key)


def document_order(key: int | None, epoch: int, block: int, documents: int) -> NDArray[np.int64]:
    """The documents of a block in the order of an epoch: element i is the document at place i."""
    if key is None or documents == 0:
        return np.arange(documents)
    order = Permutation(documents, derive_key(key, "documents", epoch, block))
    return order(np.arange(documents, dtype=np.uint64)).astype(np.int64)


def removals(parts: Sequence[RemovedTokens]) -> tuple[RemovedTokens, ...]:
    """In a fixed order, so that equal sets give equal streams."""
    return tuple(sorted(parts, key=lambda one: (one.epoch, one.block, one.tokens)))
