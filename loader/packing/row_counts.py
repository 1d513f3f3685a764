"""How many rows a packer makes of every group of blocks: found once for a source and a row length, and kept.

A group is a run of neighbouring blocks: at least 4, with tokens for at least `group_rows` rows, the same in every
epoch. The counts lie in the cache folder, 4 bytes a group. To find them every document is packed, at about a million a
second and core: small sources are counted when they are opened, larger ones by a command.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bamba_data import canonical_json
from bamba_data.errors import UserError

from ..cache.array_file import write_arrays
from ..cache.bounded_map import bounded_map
from .base import Documents, Longs, Packer, PackingInput
from .document_lengths import Counts, lengths_of, read_counts

LOG = logging.getLogger(__name__)

LEAST_BLOCKS = 4
PART_GROUPS = 256  # a task of a process: some 65,000 rows at GROUP_ROWS
#: Documents of a source that are counted without being asked: some seconds, on the first process of a host.
MAX_DOCUMENTS = 4_000_000


class Grouping:
    """The blocks [0, blocks) of a source in `groups` groups of nearly equally many.

    The same in all epochs: only so are a group's rows counted once. docs/packing.md has what group sizes cost.
    """

    def __init__(self, source: PackingInput) -> None:
        tokens = source.blocks.tokens
        self.blocks = len(tokens)
        rows = int(tokens.sum()) // source.header.row_tokens // source.header.group_rows
        self.groups = min(self.blocks, max(1, min(self.blocks // LEAST_BLOCKS, rows)))

    def blocks_of(self, group: int) -> range:
        return range(group * self.blocks // self.groups, (group + 1) * self.blocks // self.groups)

    def group_of(self, block: int) -> int:
        """The inverse of `blocks_of`: block b lies in the group g with g blocks // groups <= b."""
        return ((block + 1) * self.groups - 1) // self.blocks

    def begins(self) -> Longs:
        """The first block of every group, and the end."""
        return np.arange(self.groups + 1) * self.blocks // max(1, self.groups)


def rows_by_group(source: PackingInput, packer: Packer, processes: int | None = None) -> Longs:
    """Rows of every group, int64 [groups], without held-out documents: from the cache, else counted.

    Args:
        source: what is packed.
        packer: how.
        processes: to count with, for the command; None for a loader, which counts small sources only.

    Raises:
        UserError: the source has more than MAX_DOCUMENTS and `processes` is None; the command is in the message.
    """
    file = rows_path(source)
    if file and (known := read_counts(*file)) is not None:
        return known.astype(np.int64)
    blocks = source.blocks
    documents = int(blocks.documents.sum())
    if processes is None and documents > MAX_DOCUMENTS:
        raise UserError(
            f"source {blocks.name!r} has {documents:,} documents, and how they pack into rows of "
            f"{source.header.row_tokens:,} tokens is not known in {source.cache}: find it once with "
            "`python -m loader.pack DATASET --cache FOLDER --row-tokens N`, or with --plan FILE"
        )
    began = time.perf_counter()
    rows = _count(source, packer, processes or 1)
    if file:
        with contextlib.suppress(OSError):  # a full disk costs time, not rows
            file[0].unlink(missing_ok=True)  # damaged
            write_arrays(*file, [rows.astype("<u4")])
    LOG.info(
        "source %s: packed %s documents into %s rows in %.1f s", blocks.name, documents, int(rows.sum()),
        time.perf_counter() - began,
    )  # fmt: skip
    return rows


def rows_path(source: PackingInput) -> tuple[Path, bytes] | None:
    """The file of a source's rows by group, and its key; None without a cache."""
    if source.cache is None:
        return None
    header = source.header
    what = [source.blocks.identity, header.packing, header.row_tokens, header.group_rows]
    digest = canonical_json.digest([*what, source.delimiters, header.holdout_ppm])[:32]
    return source.cache / "lengths" / f"{digest}.rows.arrays", bytes.fromhex(digest)


def _count(source: PackingInput, packer: Packer, processes: int) -> Longs:
    parts = _parts(source, Grouping(source), processes)
    work = partial(_count_part, packer=packer, row_tokens=source.header.row_tokens)
    if processes == 1:
        return np.array([rows for part in parts for rows in work(part)], np.int64)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        counted = bounded_map(pool, work, parts, 4 * processes)
        return np.array([rows for part in counted for rows in part], np.int64)


def _count_part(groups: list[Longs], packer: Packer, row_tokens: int) -> list[int]:
    return [packer(lengths, row_tokens).rows for lengths in groups]


def _parts(source: PackingInput, grouping: Grouping, processes: int) -> Iterator[list[Longs]]:
    """The lengths of the documents that are not held out, by group; PART_GROUPS are one task of a process."""
    counts = lengths_of(source.blocks, source.cache, processes)
    ends = np.cumsum(np.add.reduceat(source.blocks.documents, grouping.begins()[:-1])).tolist()
    groups = (
        lengths_in(source, grouping.blocks_of(group), counts[low:high])
        for group, (low, high) in enumerate(pairwise([0, *ends]))
    )
    while part := list(islice(groups, PART_GROUPS)):
        yield part


def lengths_in(source: PackingInput, blocks: range, counts: Counts) -> Longs:
    """Tokens with delimiters, int64, of the documents of some blocks that are not held out; `counts` are of all."""
    return np.delete(counts.astype(np.int64) + source.delimiters, numbers_in(source, blocks, source.heldout))


def numbers_in(source: PackingInput, blocks: range, documents: Documents) -> Longs:
    """Those of `documents` that lie in `blocks`, by their numbers there: documents of the blocks end to end."""
    low, high = np.searchsorted(documents.blocks, (blocks.start, blocks.stop))
    begins: NDArray[np.int64] = np.cumsum(source.blocks.documents[blocks.start : blocks.stop])
    first = np.concatenate([[0], begins])
    return first[documents.blocks[low:high] - blocks.start] + documents.documents[low:high]
