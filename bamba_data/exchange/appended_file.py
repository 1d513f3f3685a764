"""A file that grows, and goes on growing where an earlier process was killed: from the size that was written down.

What lies beyond that size was never vouched for, and is cut off.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bamba_data.errors import IntegrityError, Unfinished
from bamba_data.storage.local_disk import naming


class DamagedExport(IntegrityError):
    """A file of an unfinished export is not what its record says: which, and the way out."""


class AppendedFile:
    """Opened at `size_bytes`; `sync` says how many bytes are on the disk for certain."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        there = path.stat().st_size
        if there < size_bytes:
            self._file.close()
            raise DamagedExport(
                f"{path}: has {there:,} bytes, its record says {size_bytes:,}: somebody cut it; remove the folder and "
                "export again"
            )
        self._file.truncate(size_bytes)
        self._file.seek(size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, data: Any) -> None:
        """Bytes, or any contiguous buffer."""
        with naming(self.path):
            self._file.write(data)

    def sync(self) -> int:
        """Put all of it on the disk; its size in bytes."""
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.tell()


@contextlib.contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[None]:
    """One process at a time: a lock that ends with its process, on a file that is gone afterwards. Raises Unfinished if
    another has it, unless `wait`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as resources:
        while True:
            file = resources.enter_context(path.open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Unfinished(f"{path.parent}: another export is writing here: wait until it has ended") from None
            # Its last holder may have removed the file after we opened it: then others lock a newer one.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """A small file, whole or not at all, and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with naming(path), part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(part, path)


def put_in_place(part: Path, path: Path) -> None:
    """Rename, so that a power loss cannot take it back."""
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
