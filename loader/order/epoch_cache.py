"""The orders of large epochs, kept as mapped files: a resume, or another process of the host, permutes nothing."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from ..cache.atomic_write import write_whole
from ..cache.mmap import map_file
from .epochs import Epoch, RemovedTokens
from .permutation import derive_key

WORTH_BLOCKS = 1 << 16  # below, to compute is as quick


def keep_in(
    folder: Path, identity: str, key: int | None, removed: tuple[RemovedTokens, ...]
) -> Callable[[int, Callable[[], Epoch]], Epoch]:
    """For `Stream.keep`: epochs of one source, one key and one set of removed documents."""

    def keep(number: int, make: Callable[[], Epoch]) -> Epoch:
        missing = ", ".join(part.cache_key() for part in removed if part.epoch <= number)
        name = derive_key(identity, repr(key), number, f"[{missing}]")
        path = folder / "epochs" / f"{name:016x}.order"
        with contextlib.suppress(OSError):
            if (found := _read(path)) is not None:
                return found
            path.unlink()  # damaged
        epoch = make()
        if len(epoch.order) >= WORTH_BLOCKS:
            with contextlib.suppress(OSError):  # a full disk costs time, not rows
                _write(path, epoch)
        return epoch

    return keep


def _read(path: Path) -> Epoch | None:
    data = map_file(path)
    blocks = (len(data) - 16) // 12
    if len(data) != 16 + 12 * blocks or xxhash.xxh3_128_digest(data[16:].data) != data[:16].tobytes():
        return None
    ends_to = 16 + 8 * blocks
    return Epoch(data[ends_to:].view(np.uint32), data[16:ends_to].view(np.int64))


def _write(path: Path, epoch: Epoch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = epoch.ends.tobytes() + epoch.order.tobytes()
    write_whole(path, [xxhash.xxh3_128_digest(body), body])
