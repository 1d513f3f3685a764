"""A record a document: the digest of its token ids and where it stands. In files cut into ranges by the digest, so
that whoever looks for equal documents reads one range of every file, and holds no more than that.

A file is `ranges + 1` little-endian uint64, at which record each range begins, and then the records.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import Dataset
from bamba_data.format.masks import Flags
from bamba_data.storage.store import Store

from .reading import blocks_of

#: `high` and `low` are the first 16 bytes of the sha256 of the ids as stored (little-endian). Of 3e9 different
#: documents two have the same with a chance of 1.3e-20. `source` is its rank, `file` counts within the source.
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("source", "<u4"), ("file", "<u4"), ("row", "<u8")])
Records = NDArray[Any]
_START_BYTES = 8


def records_of(dataset: Dataset, shard: dict[str, Any], rank: int, removed: dict[tuple[int, int], Flags]) -> Records:
    """Of the documents of a shard that are left, in its order.

    Args:
        dataset: of the second format or later.
        shard: a row of its table of shards, with its place there as `shard`.
        rank: of its source.
        removed: what `masks.removed_in` says.

    Returns:
        RECORD [documents].

    Raises:
        CorruptShard: it is missing, or not what was published.
    """
    parts = [np.empty(0, RECORD)]
    for block in blocks_of(dataset, shard, removed):
        records = np.empty(len(block.rows), RECORD)
        digests = b"".join(hashlib.sha256(ids.tobytes()).digest()[:16] for ids in block.tokens.documents())
        records["high"], records["low"] = np.frombuffer(digests, ">u8").reshape(-1, 2).T
        records["source"] = rank
        records["file"] = block.files
        records["row"] = block.rows
        parts.append(records if block.gone is None else records[~block.gone])
    return np.concatenate(parts)


def save(records: Records, ranges: int, store: Store, path: str) -> None:
    """Write records as a file of so many ranges; it is there whole or not at all."""
    place = ((records["high"] >> np.uint64(32)) * np.uint64(ranges)) >> np.uint64(32)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(ranges + 1, dtype=np.uint64)).astype("<u8")
    with store.writer(path) as file:
        file.write(starts.tobytes())
        file.write(records[order].tobytes())


def load(number: int, ranges: int, store: Store, path: str) -> Records:
    """The records of one range of a file. Raises CorruptManifest if the file ends before they do."""
    bounds = np.frombuffer(store.read_range(path, number * _START_BYTES, (number + 2) * _START_BYTES), "<u8")
    if len(bounds) != 2:
        raise CorruptManifest(path, "is cut off; delete it and run the same command again")
    begin, end = (_START_BYTES * (ranges + 1) + int(bound) * RECORD.itemsize for bound in bounds)
    data = store.read_range(path, begin, end) if end > begin else b""
    if len(data) != end - begin:
        raise CorruptManifest(path, "is cut off; delete it and run the same command again")
    return np.frombuffer(data, RECORD)


def later_ones(records: Records) -> Records:
    """Of every group of records with one digest all but the first, by (source, file, row); in that order.
    Memory is about three times that of the records."""
    order = np.lexsort([records[name] for name in ("row", "file", "source", "low", "high")])
    ordered = records[order]
    same = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    later: Records = ordered[1:][same]
    listed: Records = later[np.lexsort([later[name] for name in ("row", "file", "source")])]
    return listed
