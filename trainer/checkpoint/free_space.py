"""Whether a checkpoint has room where it goes, and what is said when it has not."""

import errno
import os
from collections.abc import Mapping

from torch import Tensor

from bamba_data.errors import BambaError, NoRoom
from bamba_data.storage.store import LocalStore, Store

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the last: a limit of one file's size, as `ulimit -f` sets
WAY_OUT = (
    "Make room, keep fewer checkpoints (checkpoints.keep_last, checkpoints.keep_every_steps) or give another --out; "
    "nothing that was saved is lost, and the same command then goes on"
)


def bytes_of(state: Mapping[str, Tensor]) -> int:
    """Of a checkpoint of `state`, all ranks together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def free_bytes(store: Store) -> int | None:
    """What may still be written there; None where it cannot be known: on S3, or on a disk that does not say."""
    if not isinstance(store, LocalStore):
        return None
    try:
        disk = os.statvfs(next(place for place in (store.root, *store.root.parents) if place.exists()))
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else None


def no_room(store: Store, wanted_bytes: int) -> NoRoom | None:
    """The error of a save that need not be tried."""
    free = free_bytes(store)
    if free is None or free >= wanted_bytes:
        return None
    return NoRoom(store.url, "no room for a checkpoint", wanted_bytes, free, WAY_OUT)


def as_no_room(error: BambaError | OSError, store: Store, wanted_bytes: int) -> BambaError | OSError:
    """A full disk by its own name; any other error as it is."""
    if isinstance(error, OSError) and error.errno in FULL:
        said = f"{error.strerror} while a checkpoint was written"
        return NoRoom(store.url, said, wanted_bytes, free_bytes(store), WAY_OUT)
    return error
