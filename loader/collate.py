"""Rows of tokens put together as the arrays of a batch: ids, labels, positions, document numbers.

    input_ids     int64 [rows, T]
    labels        int64 [rows, T]   the next token of the same document, also past the row's end; -100 after the last
    position_ids  int64 [rows, T]   restart at each document and each row
    seq_idx       int32 [rows, T]   number of the document in its row, from 0
    row           int64 [rows]      global row index; -1 for a row that only fills up
    source        int64 [rows]      number of the source in the plan (`source_names`); -1 likewise
    cu_seqlens    int32 [n + 1]     where documents begin in the rows laid end to end, and the end

Where ranks share rows (`Reading.context_ranks`), T is the tokens of a part: positions and numbers of documents count
from the begin of the row, labels look ahead past the part, and `cu_seqlens` is of the parts laid end to end.

Masked tokens have label -100, torch's own `ignore_index`: fill, documents in quarantine, and what is marked as no
target. Rows come here with T + 1 ids each, so that the last token has its label; ids alone need no look-ahead and come
with T.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .packing.base import RowPiece
from .packing.document_transforms import IDS

FIELDS = ("input_ids", "labels", "position_ids", "seq_idx", "row", "source", "cu_seqlens")
DEFAULT_FIELDS = FIELDS[:-1]
MASKED = -100

Arrays = dict[str, NDArray[Any]]
Longs = NDArray[np.int64]


class FilledRow(NamedTuple):
    """What a row was filled with: `filled` of its T + 1 ids are of documents, which begin at `starts` (ascending, in
    parts); `pieces` are what it was copied from, each with its place in the row."""

    filled: int
    starts: list[Longs]
    pieces: list[tuple[int, RowPiece]]

    def part(self, first: int, tokens: int) -> "RowPart":
        """Of the tokens from `first` on, and one to look ahead."""
        before = np.unique(np.concatenate([[0], *self.starts]))
        if self.filled:
            before = np.unique(np.append(before[before < self.filled], self.filled))  # what fills up is one more
        number = int(before.searchsorted(first, "right")) - 1
        inside = before[(before >= first) & (before <= min(first + tokens, self.filled - 1))] - first
        filled = min(max(self.filled - first, 0), tokens + 1)
        own = FilledRow(filled, [inside] if len(inside) else [], self.pieces)
        return RowPart(own, number, first - int(before[number]))


class RowPart(NamedTuple):
    """`filled`: as if the part were a row; `number`: the document of the row that its first token is of; `before`:
    tokens of that document before the part."""

    filled: FilledRow
    number: int
    before: int


NO_ROW = FilledRow(0, [], [])


def needs_documents(fields: frozenset[str]) -> bool:
    """Whether any field depends on where documents begin."""
    return bool(fields - {"input_ids", "row", "source"})


def document_starts(rows: Sequence[FilledRow], row_tokens: int) -> Longs:
    """Where documents begin in rows of `row_tokens` + 1 ids laid end to end: ascending, every row's begin and the end
    of what fills it among them."""
    parts: list[Longs] = []
    for number, row in enumerate(rows):
        base = number * (row_tokens + 1)
        if not row.starts or row.starts[0][0] != 0:
            parts.append(np.array([base]))
        parts += [part + base for part in row.starts]
        if 0 < row.filled <= row_tokens:
            parts.append(np.array([base + row.filled]))
    if not parts:
        return np.empty(0, np.int64)
    starts = np.concatenate(parts)
    is_first = np.empty(len(starts), np.bool_)
    is_first[0] = True
    np.not_equal(starts[1:], starts[:-1], out=is_first[1:])
    return starts[is_first]  # a document without tokens begins where the next does


def labels_of(ids: NDArray[Any], starts: Longs, rows: Sequence[FilledRow], marked: bool) -> Longs:
    """The label of every token: the id after it, where that is of the same document.

    Args:
        ids: [rows, T + 1], with the token of look-ahead.
        starts: `document_starts` of the rows.
        rows: What they were filled with.
        marked: The ids carry a mask in the bits above IDS, of a document transform or of conversations.
    """
    width = ids.shape[1]
    labels = ids[:, 1:].astype(np.int64)
    if marked:
        labels[labels > int(IDS)] = MASKED
    ends = starts[starts % width > 0]  # the token before each of these is the last of its document
    labels[ends // width, ends % width - 1] = MASKED
    for number, row in enumerate(rows):
        if row.filled < width:
            labels[number, max(0, row.filled - 1) :] = MASKED
    return labels


def count_over_the_row(arrays: Arrays, starts: Longs, parts: Sequence[RowPart]) -> None:
    """Let positions and documents of parts count from the begin of their rows, in place.

    Args:
        arrays: As `document_arrays` makes them of the parts.
        starts: `document_starts` of the parts.
        parts: One of each row.
    """
    if "seq_idx" in arrays:
        arrays["seq_idx"] += np.array([part.number for part in parts], np.int32).reshape(-1, 1)
    if (positions := arrays.get("position_ids")) is not None:
        width = positions.shape[1] + 1
        for row, part in enumerate(parts):
            if part.before:  # of the document that goes on: to where the next one begins
                second = int(starts.searchsorted(row * width, "right"))
                end = int(starts[second]) if second < len(starts) else (row + 1) * width
                positions[row, : end - row * width] += part.before


def document_arrays(starts: Longs, rows: int, row_tokens: int, fields: frozenset[str]) -> Arrays:
    """`position_ids`, `seq_idx` and `cu_seqlens`, those of them that are asked for; `starts` as `document_starts`."""
    arrays: Arrays = {}
    inside = starts[starts % (row_tokens + 1) < row_tokens]
    begins = inside - inside // (row_tokens + 1)  # without the column of look-ahead
    bounds = np.append(begins, rows * row_tokens)
    lengths = np.diff(bounds)
    if "position_ids" in fields:
        positions = np.arange(rows * row_tokens)
        positions -= np.repeat(begins, lengths)
        arrays["position_ids"] = positions.reshape(rows, row_tokens)
    if "seq_idx" in fields:
        row = begins // row_tokens
        firsts = np.searchsorted(row, np.arange(rows))
        numbers = (np.arange(len(begins)) - firsts[row]).astype(np.int32)
        arrays["seq_idx"] = np.repeat(numbers, lengths).reshape(rows, row_tokens)
    if "cu_seqlens" in fields:
        arrays["cu_seqlens"] = bounds.astype(np.int32)
    return arrays
