"""Files in a cache that appear whole or not at all, and of which a kill leaves nothing behind."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CALL_BYTES, CALL_PARTS = 8 << 20, 256  # of a call; the kernel takes 1,024 parts


def write_whole(path: Path, parts: Iterable[memoryview | bytes]) -> bool:
    """Write `parts` end to end as `path`, whose folder exists; whether it has the name. A file that is there stays.

    The file has no name before it is whole (open(2): O_TMPFILE and linkat). On a file system that cannot do that, such
    as NFS, it has the name `.part-*` until then.

    It need not be synced: after a loss of power a reader sees the damage by the file's digest, and makes it anew.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    except (OSError, AttributeError):
        _replace(path, parts)
        return True
    try:
        _write(descriptor, parts)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:  # Python follows the link to the nameless file only when a folder is given (it calls linkat then)
            os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder)
        except FileExistsError:
            return False
        finally:
            os.close(folder)
    finally:
        os.close(descriptor)
    return True


def _write(descriptor: int, parts: Iterable[memoryview | bytes]) -> None:
    """Many parts in a call: where each has a call of its own, a file's pages are made one by one, and take twice as
    long."""
    waiting: list[memoryview] = []
    size = 0
    for part in filter(len, parts):
        waiting.append(memoryview(part))
        size += len(part)
        if size >= CALL_BYTES or len(waiting) >= CALL_PARTS:
            _write_out(descriptor, waiting)
            size = 0
    _write_out(descriptor, waiting)


def _write_out(descriptor: int, waiting: list[memoryview]) -> None:
    """All of it, and leave the list empty. The kernel may take a part of what it is given."""
    while waiting:
        written = os.writev(descriptor, waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = waiting[0][written:]


def write_anew(path: Path, data: bytes) -> None:
    """Write a file whole and synced, in the place of one that may be there. Raises OSError as `write_whole`."""
    _replace(path, [data])


def _replace(path: Path, parts: Iterable[Any]) -> None:
    handle, staged = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())  # before the rename: a name must never come to the disk without its bytes
        Path(staged).chmod(0o644)  # mkstemp gives 0o600, and other users of the host read it
        Path(staged).replace(path)
    finally:
        Path(staged).unlink(missing_ok=True)
