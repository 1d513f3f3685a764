"""Pieces read ahead by threads, in the order of their places.

A piece stays until the next one is asked for, and what is in the queue is compared with the place that is asked for: an
error or an interrupt anywhere costs what was read ahead, and never a piece. In a fork, which has no threads, it begins
anew.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from .collate import Arrays
from .rank_batches import Piece, Place, Walk


class _Job(NamedTuple):
    place: Place
    piece: Piece
    arrays: Future[Arrays]


class ReadAhead:
    """A queue of pieces in the making.

    Args:
        walk: What comes after a piece.
        read: Makes a piece; called from several threads.
        threads: How many; 0 makes a piece when it is asked for.
        depth: Pieces in the queue, at most.
    """

    def __init__(self, walk: Walk, read: Callable[[Piece], Arrays], threads: int, depth: int) -> None:
        self._walk, self._read, self._threads, self._depth = walk, read, threads, depth
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: deque[_Job] = deque()

    def get(self, place: Place, piece: Piece) -> Arrays:
        """The piece at a place. Its error is raised anew each time that it is asked for."""
        if not self._threads:
            return self._read(piece)
        # The queue begins elsewhere after a batch that failed, a seek, or an interrupt between two calls.
        while self._jobs and self._jobs[0].place != place:
            if self._jobs[0].place < place:
                self._jobs.popleft()
            else:
                self.drop()
        self.fill(place)
        return self._jobs[0].arrays.result()

    def fill(self, place: Place) -> None:
        """Have what comes from `place` on in the making."""
        if not self._threads:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "bamba-loader")
        if self._jobs:
            place = self._walk.following(self._jobs[-1].place, self._jobs[-1].piece)
        while len(self._jobs) < self._depth and (piece := self._walk.piece(place)) is not None:
            self._jobs.append(_Job(place, piece, self._pool.submit(self._read, piece)))
            place = self._walk.following(place, piece)

    def drop(self) -> None:
        """Forget what was read ahead."""
        for job in self._jobs:
            job.arrays.cancel()
        self._jobs.clear()

    def close(self) -> None:
        """Stop the threads. It may be used again."""
        self.drop()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def process() -> int:
    """This process: what has threads or locks is not to be used in another one, that was forked."""
    return os.getpid()
