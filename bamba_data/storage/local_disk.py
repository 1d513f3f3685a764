"""What we keep on a local disk for ourselves: folders that no other user can have put anything into, and errors that
name the path."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bamba_data.errors import AccessDenied

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> Path:
    """The folder, made if it is not there: ours, no symbolic link, of mode 0700. Raises AccessDenied if another user
    could have written into it, or could put another in its place."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    status, above = path.lstat(), path.parent.stat()
    wrong = None
    if not stat.S_ISDIR(status.st_mode):
        wrong = "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is no folder"
    elif status.st_uid != os.geteuid():
        wrong = f"belongs to user {status.st_uid}, not to {os.geteuid()}"
    elif status.st_mode & OTHERS_WRITE:
        wrong = f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    elif above.st_mode & OTHERS_WRITE and not above.st_mode & stat.S_ISVTX:
        wrong = f"lies in {path.parent}, where others can replace it (mode {stat.S_IMODE(above.st_mode):o}, not sticky)"
    if wrong:
        raise AccessDenied(
            f"{path}: {wrong}: what is in it cannot be trusted; remove it, or set TMPDIR to a folder of yours"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def scratch_folder() -> Path:
    """This user's, below the system's temporary folder."""
    return private_folder(Path(tempfile.gettempdir()) / f"bamba-data-scratch-{os.geteuid()}")


def cache_folder() -> Path:
    """Where a host keeps what can be made again: $BAMBA_CACHE, else this user's cache folder on this platform
    (~/.cache/bamba-data, ~/Library/Caches/bamba-data). Before that came, and where a home cannot be written or others
    could write there, it lies below the system's temporary folder; one that is there is used on until it goes.

    Raises:
        AccessDenied: Neither folder is ours alone.
    """
    if named := os.environ.get("BAMBA_CACHE"):
        return Path(named)
    from platformdirs import user_cache_path

    own = user_cache_path("bamba-data", appauthor=False)
    temporary = Path(tempfile.gettempdir()) / f"bamba-cache-{os.geteuid()}"
    is_own = own.is_absolute()  # not so for a user without a home
    with contextlib.suppress(OSError, AccessDenied):
        if temporary.lstat().st_uid == os.geteuid() and not (is_own and own.exists()):
            return private_folder(temporary)
    with contextlib.suppress(OSError, AccessDenied):
        if is_own:
            return private_folder(own)
    return private_folder(temporary)


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """An OSError of a write, which knows no name of its own, is given that of its file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
