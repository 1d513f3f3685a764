"""What rows are cut from: the documents of some blocks in the order of an epoch, delimiters in place."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_NO_OFFSETS: NDArray[np.uint32] = np.empty(0, np.uint32)
_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)


class Segment(NamedTuple):
    """`ids` as they go into rows. Piece i of the segment begins at `starts[i]` (the last element is the end) and is of
    document `documents[i]` of the layout's blocks, whose documents are numbered end to end.

    A piece is a whole document where there are no `offsets`; else it begins at token `offsets[i]` of its document. A
    layout that makes whole rows has in `rows` where each begins in `ids`, and the end.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int32]
    documents: NDArray[np.uint32]
    offsets: NDArray[np.uint32] = _NO_OFFSETS
    rows: NDArray[np.int32] = _NO_ROWS
