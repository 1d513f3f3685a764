"""Blocks as an epoch serves them: documents in their order, delimiters in place, ready to be read as rows.

What lies where in a segment is said by a layout, which the packing gives (packing.py). Segments are files in a cache
folder that all processes of a host share and map. A segment is made from blocks whose digests were checked, and carries
a digest of its own, which is checked when it is mapped: a damaged one is made anew.
The folder is kept below a size by removing what was used longest ago. Nothing is left behind by a process that is
killed: a file has no name until it is whole.
"""

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from loader.blocks import Blocks
from loader.mapping import map_file
from loader.permutation import derive_key
from loader.whole import write_whole

LOG = logging.getLogger(__name__)

#: A file is this header, then the arrays of a segment after the first, then its ids.
HEADER = np.dtype([("digest", "V16"), ("key", "V16"), ("lengths", "<i8", 5), ("width", "<i8")])
NUMBERS = tuple(map(np.dtype, ("<i4", "<u4", "<u4", "<i4")))
MAPPED = 24_000  # segments that a process keeps mapped; a process may have 65,530 mappings
ANONYMOUS_BYTES = 64 << 20  # of segments held in memory, where they cannot be in the folder


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


class Layout(Protocol):
    """What a segment is made of, and how. A frozen value whose repr names all that the segment depends on beside the
    tokens of its blocks: the repr is in the name of the segment's file."""

    @property
    def blocks(self) -> Sequence[int]: ...
    def make(self, blocks: Blocks) -> Segment:
        """Read and verify the blocks, and put them in order."""


class SegmentCache:
    """Segments by source and layout, from memory maps, else from the folder, else made.

    Where there is no folder, or it is full or may not be written, a few are kept in memory instead: that costs time,
    not rows. Safe to use from several threads and processes at once.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._held: OrderedDict[Any, Segment] = OrderedDict()  # mapped
        self._loose: OrderedDict[Any, Segment] = OrderedDict()  # in memory
        self._loose_bytes = 0
        self._lock = threading.Lock()
        self._making: dict[Any, threading.Lock] = {}
        self._written_bytes = 0
        self.made = 0  # from blocks
        self.damaged = 0  # found in the folder, and made anew
        self.unsaved = 0  # could not be put there

    def get(self, blocks: Blocks, layout: Layout) -> Segment:
        place = (blocks.identity, layout)
        found = self._find(place)
        if found is not None:
            return found
        with self._lock:
            turn = self._making.setdefault(place, threading.Lock())
        try:
            with turn:
                found = self._find(place)
                if found is None:
                    found, mapped = self._obtain(blocks, layout)
                    with self._lock:
                        self._hold(place, found, mapped)
        finally:
            with self._lock:
                self._making.pop(place, None)
        return found

    @property
    def mapped_only(self) -> bool:
        """That no segment lies in memory: then to hold one longer costs nothing."""
        return not self._loose

    def _find(self, place: Any) -> Segment | None:
        return self._held.get(place) or self._loose.get(place)

    def _hold(self, place: Any, segment: Segment, mapped: bool) -> None:
        if mapped:
            self._held[place] = segment
            if len(self._held) > MAPPED:
                self._held.popitem(last=False)
            return
        if place in self._loose:
            return
        self._loose[place] = segment
        self._loose_bytes += _size(segment)
        while self._loose_bytes > ANONYMOUS_BYTES and len(self._loose) > 1:
            _, oldest = self._loose.popitem(last=False)
            self._loose_bytes -= _size(oldest)

    def _obtain(self, blocks: Blocks, layout: Layout) -> tuple[Segment, bool]:
        """The segment, and whether it is mapped."""

        def fresh() -> Segment:
            with self._lock:
                self.made += 1
            return layout.make(blocks)

        if self._folder is None:
            return fresh(), False
        key = derive_key(*(blocks.digest(block) for block in layout.blocks), repr(layout))
        name = f"{key:016x}"
        path = self._folder / name[:2] / f"{name}.segment"
        with contextlib.suppress(OSError):
            if (found := _mapped(path, key, blocks.dtype)) is not None:
                return found, True
            with self._lock:
                self.damaged += 1
            LOG.warning("%s is damaged: it is made anew from the data", path)
            path.unlink()
        segment = fresh()
        try:
            self._save(path, key, segment)
            if (found := _mapped(path, key, blocks.dtype)) is not None:
                return found, True
            why = "it does not come back as it was written"
        except OSError as error:
            why = error.strerror or type(error).__name__
        with self._lock:
            self.unsaved += 1
            first = self.unsaved == 1
        if first:
            LOG.warning(
                "%s cannot be kept (%s): few blocks fit in memory, so many will be decoded again and again; "
                "make room, or name another folder by cache= or $BAMBA_CACHE",
                path,
                why,
            )
        return segment, False

    def _save(self, path: Path, key: int, segment: Segment) -> None:
        ids, *numbers = segment
        body = [np.ascontiguousarray(part).view(np.uint8) for part in (*numbers, ids)]
        header = np.zeros((), HEADER)
        header["key"] = np.void(key.to_bytes(16, "little"))
        header["lengths"] = [len(part) for part in (*numbers, ids)]
        header["width"] = ids.dtype.itemsize
        header["digest"] = np.void(_digest(header, body))
        size = header.nbytes + sum(part.nbytes for part in body)
        self._make_room(size)
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [header.tobytes(), *body])

    def _make_room(self, size: int) -> None:
        """Look through the folder once per sixteenth of its limit written; then remove the oldest, to below."""
        self._written_bytes += size
        if self._written_bytes < self._max_bytes // 16:
            return
        self._written_bytes = 0
        assert self._folder
        found = []
        for path in self._folder.glob("*/*.segment"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((max(stat.st_mtime, stat.st_atime), stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes * 7 // 8:
                break
            path.unlink(missing_ok=True)
            total -= size


def _size(segment: Segment) -> int:
    return sum(part.nbytes for part in segment)


def _digest(header: Any, body: list[Any]) -> bytes:
    hashed = xxhash.xxh3_128(header.tobytes()[16:])
    for part in body:
        hashed.update(part)
    return hashed.digest()


def _mapped(path: Path, key: int, dtype: np.dtype[Any]) -> Segment | None:
    """The segment in a file; None if it is damaged."""
    data = map_file(path)
    size = len(data)
    if size < HEADER.itemsize:
        return None
    header = data[: HEADER.itemsize].view(HEADER)[0]
    kinds = (*NUMBERS, dtype)
    sizes = [int(length) * kind.itemsize for length, kind in zip(header["lengths"], kinds, strict=True)]
    if (
        header["width"] != dtype.itemsize
        or size != HEADER.itemsize + sum(sizes)
        or header["key"].tobytes() != key.to_bytes(16, "little")
        or header["digest"].tobytes() != _digest(data[: HEADER.itemsize], [data[HEADER.itemsize :]])
    ):
        return None
    cuts = accumulate(sizes, initial=HEADER.itemsize)
    *numbers, ids = (data[low:high].view(kind) for (low, high), kind in zip(pairwise(cuts), kinds, strict=True))
    return Segment(ids, *numbers)
