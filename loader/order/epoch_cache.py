"""The orders of large epochs, kept as mapped files: a resume, or another process of the host, permutes nothing."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from ..cache.array_file import read_arrays, write_arrays
from .epochs import Epoch, RemovedTokens
from .permutation import derive_key

DTYPES = ("<i8", "<u4")  # the end of every block in tokens; the order of blocks
WORTH_BLOCKS = 1 << 16  # below, to compute is as quick


def keep_in(
    folder: Path, identity: str, key: int | None, removed: tuple[RemovedTokens, ...]
) -> Callable[[int, Callable[[], Epoch]], Epoch]:
    """For `Stream.keep`: epochs of one source, one key and one set of removed documents.

    Args:
        folder: the cache folder; epochs lie in `epochs/` there.
        identity: all that decides an epoch beside `key` and `removed`: the source, its delimiters, its packing.
        key: the stream's.
        removed: the stream's. Those of later epochs are not in a file's name, so quarantine leaves past epochs cached.
    """

    def keep(number: int, make: Callable[[], Epoch]) -> Epoch:
        left_out = ", ".join(tokens.cache_key() for tokens in removed if tokens.epoch <= number)
        name = derive_key(identity, repr(key), number, f"[{left_out}]")
        path, file_key = folder / "epochs" / f"{name:016x}.arrays", name.to_bytes(16, "little")
        with contextlib.suppress(OSError):
            if (arrays := read_arrays(path, file_key, DTYPES)) is not None:
                ends, order = arrays
                return Epoch(order, ends)
            path.unlink()  # damaged
        epoch = make()
        if len(epoch.order) >= WORTH_BLOCKS:
            with contextlib.suppress(OSError):  # a full disk costs time, not rows
                write_arrays(path, file_key, [epoch.ends, epoch.order])
        return epoch

    return keep
