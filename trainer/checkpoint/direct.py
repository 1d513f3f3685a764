"""Many pieces of memory into one file, end to end, by several threads and past the system's cache.

A checkpoint is written once and read, if ever, by another process: in the cache it would push out what is read there,
and the disk would wait until the cache is full. Linux takes whole pages at whole pages of a file that was said to be
written so (O_DIRECT), from memory that begins at one: hence blocks, gathered from as many pieces as lie in them. The
end of a file, and all of it where its file system cannot, goes through the cache. numpy copies: unlike a memoryview it
lets other threads run meanwhile, of which one trains.
"""

import errno
import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 16 << 20
DIRECT = getattr(os, "O_DIRECT", 0)  # a Mac has none


class DirectFile:
    """Writes `pieces` one after the other into `file`, which is new; `work` is to be done by as many threads as
    `buffers`, each part once and in any order, and then `end`."""

    def __init__(self, file: BinaryIO, pieces: Sequence[memoryview], starts: Sequence[int], buffers: int) -> None:
        self._descriptor, self._starts = file.fileno(), starts
        self._pieces = [np.asarray(piece) for piece in pieces]
        self._size = starts[-1] + len(pieces[-1])
        self._flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        self._direct = self._switched(on=DIRECT != 0)
        self._buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        for _ in range(buffers):
            self._buffers.put(np.frombuffer(mmap.mmap(-1, BLOCK_BYTES), np.uint8))  # begins at a page

    def work(self) -> list[Callable[[], None]]:
        """All whole pages."""
        pages = self._size - self._size % mmap.PAGESIZE
        return [partial(self._block, start, min(start + BLOCK_BYTES, pages)) for start in range(0, pages, BLOCK_BYTES)]

    def end(self) -> None:
        """What is less than a page."""
        self._switched(on=False)
        self._block(self._size - self._size % mmap.PAGESIZE, self._size)

    def _block(self, start: int, end: int) -> None:
        block = self._buffers.get()
        try:
            at, number = start, bisect_right(self._starts, start) - 1
            while at < end:
                part = self._pieces[number][at - self._starts[number] :][: end - at]
                block[at - start : at - start + len(part)] = part
                at, number = at + len(part), number + 1
            self._write(block.data[: end - start], start)
        finally:
            self._buffers.put(block)

    def _write(self, block: memoryview, start: int) -> None:
        done = 0
        while done < len(block):
            direct = self._direct
            try:
                done += os.pwrite(self._descriptor, block[done:], start + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not direct:
                    raise
                self._direct = self._switched(on=False)  # other sizes of pages, or the rest of half a write

    def _switched(self, *, on: bool) -> bool:
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, self._flags | (DIRECT if on else 0))
        except OSError:  # the file system cannot
            return False
        return on
