"""Best-fit decreasing: documents into rows from the longest to the shortest, each where the least room is left over.

A document that fits into a row is never cut. A longer one fills rows of its own; its remainder is packed as a document
is. (Johnson, "Near-optimal bin packing algorithms", 1973: at most 11/9 of the fewest rows, and a little. "Fewer
truncations improve language modeling", arXiv 2404.10830, is what it does for a model.)
"""

from bisect import bisect_left, insort

import numpy as np

from .base import Longs, Packed


def best_fit(lengths: Longs, row_tokens: int) -> Packed:
    """A `Packer`. Depends on lengths alone; of equally long documents the first comes first.

    Args:
        lengths: int64 [documents], tokens with delimiters. A document of none is in no row.
        row_tokens: of a row.
    """
    full, rest = np.divmod(lengths, row_tokens)
    whole = np.repeat(np.arange(len(lengths)), full)
    number = np.arange(len(whole)) - np.repeat(np.cumsum(full) - full, full)  # of a full row within its document
    document = np.argsort(-rest, kind="stable")
    document = document[: np.count_nonzero(rest)]
    remainder = rest[document]
    rows, row = _place(remainder.tolist(), row_tokens)
    start = full[document] * row_tokens
    return Packed(
        len(whole) + rows,
        np.concatenate([np.arange(len(whole)), len(whole) + row]),
        np.concatenate([whole, document]),
        np.concatenate([number * row_tokens, start]),
        np.concatenate([(number + 1) * row_tokens, start + remainder]),
    )


def _place(lengths: list[int], row_tokens: int) -> tuple[int, Longs]:
    """The number of rows, and the row of each of these lengths, which descend from below `row_tokens` to 1.

    `room` has an integer for every row that is not full, ascending: the room in it, then its number.
    """
    shift = len(lengths).bit_length()
    mask = (1 << shift) - 1
    alone = bisect_left(lengths, True, key=lambda length: 2 * length <= row_tokens)  # none of these fit together
    row = list(range(alone))
    room = [row_tokens - length << shift | number for number, length in enumerate(lengths[:alone])]
    rows = alone
    for length in lengths[alone:]:
        tightest = bisect_left(room, length << shift)
        if tightest < len(room):
            rest = room.pop(tightest)
            row.append(rest & mask)
            rest -= length << shift
        else:
            row.append(rows)
            rest = row_tokens - length << shift | rows
            rows += 1
        if rest > mask:  # a full row is never asked again
            insort(room, rest)
    return rows, np.array(row, np.int64)
