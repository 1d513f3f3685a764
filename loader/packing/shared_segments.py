"""Segments of many epochs in one file, for sources whose epochs are tiny: they would fill a disk with files of a few
hundred bytes each.

The first two epochs have files of their own, so that what is read once makes nothing for later; then files hold 2, 4,
8, ... epochs, up to SHARED_BYTES. So a source that is read ten thousand times is some dozens of files.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from bamba_data.format.shard import Tokens

from ..cache.mmap import map_file
from ..sources.shards import Blocks
from .segment import Segment

SHARED_BYTES = 1 << 18
#: A file is this header, then for each segment its lengths, then the arrays of each, at multiples of 4 bytes.
HEADER = np.dtype([("digest", "V16"), ("key", "V16"), ("segments", "<i8"), ("width", "<i8")])
LENGTHS = np.dtype("<i8")
ARRAYS = 5


def epochs_together(epoch: int, epoch_bytes: int) -> range:
    """Those whose segments lie in one file with those of `epoch`."""
    most = max(1, SHARED_BYTES // max(1, epoch_bytes))
    together = min(1 << (max(1, epoch).bit_length() - 1), 1 << (most.bit_length() - 1))
    first = epoch - epoch % together
    return range(first, first + together)


class ReadOnce:
    """Blocks that are read once, however many epochs want them."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._read: dict[int, Tokens] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blocks, name)

    def read(self, block: int) -> Tokens:
        if block not in self._read:
            self._read[block] = self._blocks.read(block)
        return self._read[block]


def shared_parts(key: int, segments: Sequence[Segment]) -> list[bytes]:
    """The content of a file."""
    arrays = [[*segment[1:], segment[0]] for segment in segments]
    lengths = np.array([[len(part) for part in one] for one in arrays], LENGTHS)
    body = b"".join(_padded(b"".join(np.ascontiguousarray(part).tobytes() for part in one)) for one in arrays)
    header = np.zeros((), HEADER)
    header["key"] = np.void(key.to_bytes(16, "little"))
    header["segments"], header["width"] = len(segments), segments[0].ids.dtype.itemsize
    rest = header.tobytes()[16:] + lengths.tobytes() + body
    return [xxhash.xxh3_128_digest(rest), rest]


def mapped_shared(path: Path, key: int, dtype: np.dtype[Any], numbers: Sequence[np.dtype[Any]]) -> list[Segment] | None:
    """The segments in a file; None if it is damaged."""
    data = map_file(path)
    if len(data) < HEADER.itemsize or data[:16].tobytes() != xxhash.xxh3_128_digest(data[16:].data):
        return None
    header = data[: HEADER.itemsize].view(HEADER)[0]
    if header["key"].tobytes() != key.to_bytes(16, "little") or header["width"] != dtype.itemsize:
        return None
    begin = HEADER.itemsize + int(header["segments"]) * ARRAYS * LENGTHS.itemsize
    lengths = data[HEADER.itemsize : begin].view(LENGTHS).reshape(-1, ARRAYS)
    kinds = (*numbers, dtype)
    sizes = lengths * [kind.itemsize for kind in kinds]
    found = []
    for row in sizes.tolist():
        cuts = pairwise(accumulate(row, initial=begin))
        *others, ids = (data[low:high].view(kind) for (low, high), kind in zip(cuts, kinds, strict=True))
        found.append(Segment(ids, *others))
        begin += -(-sum(row) // 4) * 4
    return found if begin == len(data) else None


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
