"""What rows are cut from: the documents of some blocks in the order of an epoch, delimiters in place."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_NO_OFFSETS: NDArray[np.uint32] = np.empty(0, np.uint32)
_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)


class Segment(NamedTuple):
    """The ids of some documents in pieces, whole documents or parts of them.

    Attributes:
        ids: [tokens], of the source's dtype, as they go into rows.
        starts: int32 [pieces + 1], where each piece begins in `ids`, and the end.
        documents: uint32 [pieces], the document of each, by its number in the layout's blocks laid end to end.
        offsets: uint32 [pieces], the token of its document that a piece begins at; empty where pieces are whole.
        rows: int32 [rows + 1], where each row begins in `ids`, and the end; empty where rows run across segments.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int32]
    documents: NDArray[np.uint32]
    offsets: NDArray[np.uint32] = _NO_OFFSETS
    rows: NDArray[np.int32] = _NO_ROWS
