"""Loops in C for who reads many tokens, where they were compiled; None elsewhere, and callers have numpy's way, too.

`native.c` is compiled when the package is built or installed from its sources, if there is a C compiler, and needs
nothing to run. Both ways give the same bytes (tests/bamba_data/test_native.py). BAMBA_NATIVE=0 leaves it out.

ctypes lets go of the interpreter's lock while a function runs, so threads run beside each other.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("native_code.so")

_PIECE = struct.Struct("5q")
NO_PIECE = bytes(_PIECE.size)
# An array's own `ctypes.data` takes several times as long.
_BYTE_OF: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
_ADDRESS_OF = ctypes.addressof


def _loaded(file: Path) -> ctypes.CDLL | None:
    """The compiled code; None where there is none, or it is of another kind of machine."""
    if os.environ.get("BAMBA_NATIVE") == "0" or np.dtype(np.int16).newbyteorder("<") != np.int16:
        return None
    try:
        code = ctypes.CDLL(str(file))
    except OSError:
        return None
    number, address = ctypes.c_int64, ctypes.c_void_p
    code.bamba_plain_page.argtypes = [address, number, number, number, number, address]
    code.bamba_plain_page.restype = number
    code.bamba_lay_out.argtypes = [
        address,
        number,
        address,
        address,
        number,
        address,
        number,
        address,
        number,
        address,
        number,
    ]
    code.bamba_lay_out.restype = number
    code.bamba_rows.argtypes = [address, address, number, number, number, address, address, address, address, address]
    code.bamba_rows.restype = number
    return code


CODE = _loaded(FILE)


def address(array: NDArray[Any]) -> int:
    """Where an array lies: contiguous, and kept alive by whoever asks."""
    if array.flags.writeable and array.size:
        return _ADDRESS_OF(_BYTE_OF(array))  # in a fifth of the time
    where: int = array.__array_interface__["data"][0]
    return where


def plain_page(
    page: NDArray[np.uint8], documents: int, tokens: int, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.uint32]] | None:
    """(ids, counts) of a page of a shard's column `tokens`, decompressed; ids lie where the page did. None if it is not
    exactly so many documents of so many tokens, or nothing was compiled here."""
    if CODE is None:
        return None
    counts = np.empty(documents, np.uint32)
    if CODE.bamba_plain_page(address(page), len(page), documents, tokens, dtype.itemsize, address(counts)):
        return None
    return page[: tokens * dtype.itemsize].view(dtype), counts


def lay_out(
    ids: NDArray[Any], begins: NDArray[np.int64], ends: NDArray[np.int64], before: NDArray[Any], after: NDArray[Any]
) -> NDArray[Any]:
    """Ranges [begin, end) of `ids` one after the other, each between `before` and `after`, which are of its dtype.

    Raises IndexError where a range is none of `ids`.
    """
    if CODE is None or not ids.flags.c_contiguous:
        if np.any((begins < 0) | (ends < begins) | (ends > len(ids))):  # slices would be shorter, and tell nobody
            raise IndexError("documents that are not there")
        ranges = zip(begins.tolist(), ends.tolist(), strict=True)
        parts = [part for begin, end in ranges for part in (before, ids[begin:end], after)]
        return np.concatenate(parts) if parts else np.empty(0, ids.dtype)
    size = ids.itemsize
    out = np.empty(int((ends - begins).sum()) + len(ends) * (len(before) + len(after)), ids.dtype)
    ranges_in_bytes = begins * size, ends * size  # held until the call is over
    places = [address(array) for array in ranges_in_bytes]
    around = [part for array in (before, after) for part in (address(array), array.nbytes)]
    if CODE.bamba_lay_out(address(ids), ids.nbytes, *places, len(ends), *around, address(out), out.nbytes):
        raise IndexError("documents that are not there")
    return out


def piece(ids: int, starts: int, documents: int, end: int, begin: int = -1) -> bytes:
    """For `rows`: ids [begin, end) of a segment; a `begin` below 0 is the row's. `ids` and `starts` are addresses, of
    arrays that whoever uses it keeps; there is a start more than `documents`, the end."""
    return _PIECE.pack(ids, starts, documents, end, begin)


def rows(
    code: ctypes.CDLL,
    pieces: Sequence[bytes],
    begins: NDArray[np.int64],
    itemsize: int,
    outputs: Sequence[NDArray[Any] | None],
    shape: tuple[int, int],
) -> int:
    """Fill rows, and what is asked of their tokens; how many bounds were found.

    Args:
        code: CODE.
        pieces: Of each row in turn; and NO_PIECE after those of a row that they do not fill.
        begins: Where the first piece of each row begins.
        itemsize: Bytes of an id of a segment.
        outputs: ids, labels, positions and numbers [rows, tokens] and bounds [rows * tokens + 1], or None.
        shape: rows, tokens.
    """
    places = [None if array is None else _ADDRESS_OF(_BYTE_OF(array)) for array in outputs]
    found: int = code.bamba_rows(b"".join(pieces), _ADDRESS_OF(_BYTE_OF(begins)), *shape, itemsize, *places)
    return found
