"""Blocks as an epoch serves them: documents in their order, delimiters in place, ready to be read as rows.

What lies where in a segment is said by a layout, which the packing gives (base.py). Segments are files in a cache
folder that all processes of a host share and map. A segment is made from blocks whose digests were checked, and carries
a digest of its own, which is checked when it is mapped: a damaged one is made anew. Of a source whose epochs are tiny,
those of many epochs share a file (shared_segments.py).
The folder is kept below a size, as the disk counts it, by removing what was used longest ago. So is the number of
files that a process keeps mapped, over all of its loaders. Nothing is left behind by a process that is
killed: a file has no name until it is whole.
"""

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..cache.array_file import file_bytes, read_arrays, write_arrays
from ..cache.mmap import keep_below, register
from ..order.permutation import derive_key
from ..sources.base import Blocks
from .segment import Segment
from .shared_segments import ReadOnce

LOG = logging.getLogger(__name__)

#: The arrays of a segment after its ids.
NUMBERS = tuple(map(np.dtype, ("<i4", "<u4", "<u4", "<i4")))
DISK_BYTES = 4096  # a file takes whole ones of its disk
ANONYMOUS_BYTES = 64 << 20  # of segments held in memory, where they cannot be in the folder


class Layout(Protocol):
    """What a segment is made of, and how. A frozen value: it is a key of the cache."""

    @property
    def blocks(self) -> Sequence[int]:
        """The numbers of the blocks that the segment is made of."""

    def cache_key(self) -> str:
        """All that the segment depends on beside the tokens of its blocks, as text: it names the segment's file. It
        keeps its words when classes and fields get others: a new text leaves the caches of all hosts unused."""

    def make(self, blocks: Blocks) -> Segment:
        """Read and verify the blocks, and put them in order."""


class SegmentCache:
    """Segments by source and layout, from memory maps, else from the folder, else made.

    Where there is no folder, or it is full or may not be written, a few are kept in memory instead: that costs time,
    not rows. Safe to use from several threads and processes at once.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        """`folder` is kept below `max_bytes`; None keeps all in memory."""
        self._folder, self._max_bytes = folder, max_bytes
        self._former = {path.name for path in folder.glob("[0-9a-f][0-9a-f]")} if folder else set()
        self._mapped: OrderedDict[Any, Segment] = OrderedDict()
        self._shared: OrderedDict[Any, list[Segment]] = OrderedDict()  # mapped, many to a file
        self._memos: list[dict[Any, Any]] = []
        self._in_memory: OrderedDict[Any, Segment] = OrderedDict()
        self._in_memory_bytes = 0
        self._lock = threading.Lock()
        self._making: dict[Any, threading.Lock] = {}
        self._written_bytes = 0
        self.made = 0  # from blocks
        self.damaged = 0  # found in the folder, and made anew
        self.unsaved = 0  # could not be put there
        register(self)

    def get(self, blocks: Blocks, layout: Layout) -> Segment:
        """The segment of a layout. Raises CorruptShard, CorruptManifest or UserError as `layout.make` does."""
        key = (blocks.identity, layout)
        segment = self._find(key)
        if segment is None:
            with self._making_alone(key):
                segment = self._find(key)  # another thread may have made it meanwhile
                if segment is None:
                    segment, mapped = self._obtain(blocks, layout)
                    with self._lock:
                        self._hold(key, segment, mapped)
                    keep_below()
        return segment

    @contextlib.contextmanager
    def _making_alone(self, key: Any) -> Iterator[None]:
        """One thread makes what several want."""
        with self._lock:
            turn = self._making.setdefault(key, threading.Lock())
        try:
            with turn:
                yield
        finally:
            with self._lock:
                self._making.pop(key, None)

    def get_shared(self, blocks: Blocks, key: Any, layouts: Callable[[], Sequence[Layout]]) -> list[Segment] | None:
        """The segments of some layouts, which share a file. None where they cannot be in the folder, or are in memory:
        then each has to be asked for alone. `key` names the layouts."""
        if self._folder is None or self.unsaved:
            return None
        segments = self._shared.get(key)
        if segments is None:
            wanted = layouts()
            with self._making_alone(key):
                segments = self._shared.get(key)
                if segments is None and (segments := self._obtain_shared(blocks, wanted)) is not None:
                    with self._lock:
                        self._shared[key] = segments
                    keep_below()
        return segments

    def memo(self) -> dict[Any, Any]:
        """A dict for segments, which is emptied whenever one must go."""
        self._memos.append({})
        return self._memos[-1]

    # ---- what is mapped is counted over all caches of the process (cache/mmap.py)

    def mapped(self) -> int:
        """How many files."""
        return len(self._mapped) + len(self._shared)

    def unmap(self, share: int) -> None:
        """Let go of one in `share`, those that came first. They are unmapped when nobody reads them any more."""
        with self._lock:
            for mapped in (self._mapped, self._shared):
                for _ in range(-(-len(mapped) // share)):
                    mapped.popitem(last=False)
        for memo in self._memos:
            memo.clear()

    @property
    def mapped_only(self) -> bool:
        """That no segment lies in memory: then to hold one longer costs nothing."""
        return not self._in_memory

    def _find(self, key: Any) -> Segment | None:
        return self._mapped.get(key) or self._in_memory.get(key)

    def _hold(self, key: Any, segment: Segment, mapped: bool) -> None:
        if mapped:
            self._mapped[key] = segment
            return
        if key in self._in_memory:
            return
        self._in_memory[key] = segment
        self._in_memory_bytes += _size(segment)
        while self._in_memory_bytes > ANONYMOUS_BYTES and len(self._in_memory) > 1:
            _, oldest = self._in_memory.popitem(last=False)
            self._in_memory_bytes -= _size(oldest)

    def _obtain(self, blocks: Blocks, layout: Layout) -> tuple[Segment, bool]:
        """The segment, and whether it is mapped."""
        if self._folder is None:
            return self._fresh(layout, blocks), False
        # Of the blocks' digests: other data is another file, whatever it is called.
        key = derive_key(*(blocks.digest(block) for block in layout.blocks), layout.cache_key())
        fresh: list[Segment] = []

        def make() -> list[Segment]:
            fresh.append(self._fresh(layout, blocks))
            return fresh

        filed = self._filed(key, blocks.dtype, make)
        if filed is not None:
            return filed[0], True
        return (fresh[0] if fresh else self._fresh(layout, blocks)), False

    def _obtain_shared(self, blocks: Blocks, layouts: Sequence[Layout]) -> list[Segment] | None:
        digests = {block: blocks.digest(block) for layout in layouts for block in layout.blocks}
        key = derive_key(*(digests[block] for block in sorted(digests)), *(layout.cache_key() for layout in layouts))

        def make() -> list[Segment]:
            with self._lock:
                self.made += 1
            once = ReadOnce(blocks)
            return [layout.make(once) for layout in layouts]

        return self._filed(key, blocks.dtype, make)

    def _fresh(self, layout: Layout, blocks: Blocks) -> Segment:
        with self._lock:
            self.made += 1
        return layout.make(blocks)

    def _filed(self, key: int, dtype: np.dtype[Any], make: Callable[[], list[Segment]]) -> list[Segment] | None:
        """The segments in the file of a key, made if they are not there; None if they cannot be there."""
        assert self._folder
        name = f"{key:016x}"
        # To make a folder takes longer than to make a file, so they are few; there were 256 before.
        path = self._folder / name[:1] / f"{name}.arrays"
        for found in [path, *(self._folder / digits / path.name for digits in self._former & {name[:2]})]:
            with contextlib.suppress(OSError):
                if (segments := _mapped(found, key, dtype)) is not None:
                    return segments
                with self._lock:
                    self.damaged += 1
                LOG.warning("%s is damaged: it is made anew from the data", found)
                found.unlink()
        arrays = [array for segment in make() for array in segment]
        try:
            self._make_room(file_bytes(arrays))
            written = write_arrays(path, _file_key(key), arrays)
            if (segments := _mapped(path, key, dtype, written)) is not None:
                return segments
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
        return None

    def _make_room(self, size: int) -> None:
        """Look through the folder once per sixteenth of its limit written; then remove the oldest, to below."""
        self._written_bytes += -(-size // DISK_BYTES) * DISK_BYTES
        if self._written_bytes < self._max_bytes // 16:
            return
        self._written_bytes = 0
        assert self._folder
        files = []
        for path in self._folder.glob("[0-9a-f]*/*"):  # also those of earlier formats
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                on_disk = max(stat.st_size, stat.st_blocks * 512)
                files.append((max(stat.st_mtime, stat.st_atime), on_disk, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes * 7 // 8:
                break
            path.unlink(missing_ok=True)
            total -= size


def _size(segment: Segment) -> int:
    return sum(part.nbytes for part in segment)


def _file_key(key: int) -> bytes:
    return key.to_bytes(16, "little")


def _mapped(path: Path, key: int, dtype: np.dtype[Any], written: bytes | None = None) -> list[Segment] | None:
    """The segments in a file; None if it is damaged. `written`: its digest, if it was written just now."""
    dtypes = [dtype, *NUMBERS]
    arrays = read_arrays(path, _file_key(key), dtypes, written)
    if arrays is None:
        return None
    return [Segment(*arrays[first : first + len(dtypes)]) for first in range(0, len(arrays), len(dtypes))]
