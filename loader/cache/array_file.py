"""Arrays as one file of the cache, mapped as read-only memory: damage is seen, and one file is never taken for another.

    magic, format       8 bytes
    arrays              <i8: how many
    key                 16 bytes: what the arrays were made from; another key is another file
    a row per array     <i8 elements, and 8 bytes of dtype as numpy spells it ("<i4", "V16")
    the arrays          each begins at a multiple of 16 bytes
    digest              16 bytes: XXH3-128 of all before it

The digest comes last, so that a file of any size is written as its arrays are made. Files are written whole or not at
all (cache/atomic_write.py), so a kill leaves none behind; what is checked here is the disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .atomic_write import write_whole
from .mmap import map_file

MAGIC = b"bamba\0a1"
HEAD = np.dtype([("magic", "S8"), ("arrays", "<i8"), ("key", "V16")])
ROW = np.dtype([("elements", "<i8"), ("dtype", "S8")])
DIGEST_BYTES = 16
ALIGNMENT_BYTES = 16  # of the widest item, a block's digest


def read_arrays(
    path: Path, key: bytes, dtypes: Sequence[Any] = (), written: bytes | None = None
) -> list[NDArray[Any]] | None:
    """The arrays in a file, as views of one read-only mapping.

    Args:
        path: the file.
        key: 16 bytes; what the file must have been written for.
        dtypes: what the arrays must be, one after the other, again and again until the last; () asks nothing.
        written: the digest that `write_arrays` gave just now: the bytes before it are not hashed a second time.

    Returns:
        The arrays, or None if the file is damaged, of another format, of another key or of other dtypes.

    Raises:
        OSError: the file cannot be opened or mapped; FileNotFoundError if there is none.
    """
    data = map_file(path)
    end = len(data) - DIGEST_BYTES
    if end < HEAD.itemsize or (written or xxhash.xxh3_128_digest(data[:end].data)) != data[end:].tobytes():
        return None
    head = data[: HEAD.itemsize].view(HEAD)[0]
    if head["magic"] != MAGIC.rstrip(b"\0") or head["key"].tobytes() != key:
        return None
    begin = HEAD.itemsize + int(head["arrays"]) * ROW.itemsize
    arrays: list[NDArray[Any]] = []
    for number, (elements, name) in enumerate(data[HEAD.itemsize : begin].view(ROW).tolist()):
        dtype = np.dtype(name.decode())
        if dtypes and dtype != np.dtype(dtypes[number % len(dtypes)]):
            return None
        stop = begin + elements * dtype.itemsize
        arrays.append(data[begin:stop].view(dtype))
        begin = _aligned(stop)
    return arrays if begin == end and not (dtypes and len(arrays) % len(dtypes)) else None


def write_arrays(path: Path, key: bytes, arrays: Sequence[NDArray[Any]]) -> bytes | None:
    """Write arrays as a file; its digest. One that is there stays, and None is told of it: whoever found it damaged
    removes it first, or could not.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    parts = ([np.ascontiguousarray(array).view(np.uint8).data] for array in arrays)
    return write_parts(path, key, [(len(array), array.dtype) for array in arrays], parts)


def write_parts(
    path: Path, key: bytes, shapes: Sequence[tuple[int, Any]], arrays: Iterable[Iterable[memoryview | bytes]]
) -> bytes | None:
    """Write arrays that come in pieces: `shapes` says how many elements of what dtype each has, `arrays` gives the
    bytes of each, piece by piece. See `write_arrays`."""
    hashed = xxhash.xxh3_128()
    if not path.parent.is_dir():  # in less than half the time that `exist_ok` takes
        path.parent.mkdir(parents=True, exist_ok=True)
    is_ours = write_whole(path, _content(key, shapes, arrays, hashed))
    return hashed.digest() if is_ours else None


def file_bytes(arrays: Sequence[NDArray[Any]]) -> int:
    """How many bytes the file of these arrays has: room is made for it before it is written."""
    head = HEAD.itemsize + len(arrays) * ROW.itemsize
    return head + sum(_aligned(array.nbytes) for array in arrays) + DIGEST_BYTES


def _content(
    key: bytes, shapes: Sequence[tuple[int, Any]], arrays: Iterable[Iterable[memoryview | bytes]], hashed: Any
) -> Iterator[memoryview | bytes]:
    head = np.zeros((), HEAD)
    head["magic"], head["arrays"], head["key"] = MAGIC, len(shapes), np.void(key)
    rows = np.array([(elements, np.dtype(dtype).str.encode()) for elements, dtype in shapes], ROW)

    def hashing(piece: memoryview | bytes) -> memoryview | bytes:
        hashed.update(piece)
        return piece

    yield hashing(head.tobytes() + rows.tobytes())
    for (elements, dtype), pieces in zip(shapes, arrays, strict=True):
        nbytes = 0
        for piece in pieces:
            nbytes += len(piece)
            yield hashing(piece)
        if nbytes != elements * np.dtype(dtype).itemsize:
            raise ValueError(f"{nbytes} bytes came for an array of {elements} {np.dtype(dtype)}")
        yield hashing(bytes(_aligned(nbytes) - nbytes))
    yield hashed.digest()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
