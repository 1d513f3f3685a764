"""How many tokens every document of a source has: an index beside the blocks, made once from what the data says of it.

The manifest counts tokens by block. Packing needs them by document, which the shards have in a column of their own, a
hundredth of their bytes. The index is 4 bytes a document in the cache folder, named by the source's identity (so by the
digest of its dataset), checked against the manifest's counts when it is made and against its own digest when it is
read. It only decides how many rows there are: rows are made of blocks whose digests were checked, and what does not
agree with the index then is an error.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest

from ..cache.array_file import read_arrays, write_parts
from ..cache.bounded_map import bounded_map
from ..sources.base import Blocks

Counts = NDArray[np.uint32]
READERS = 16  # threads of a process: of a remote store so many columns are read at once
SPAN = 16 * READERS  # blocks that a process reads at once


@runtime_checkable
class Counted(Protocol):
    """Blocks that know the tokens of their documents without reading them."""

    def counts(self, block: int) -> Counts:
        """Tokens of each document of a block."""


def counts_of(blocks: Blocks, block: int) -> Counts:
    """Tokens of each document of a block, uint32 [documents].

    Raises:
        CorruptManifest: they do not agree with the documents and tokens that `blocks` has there.
    """
    counts = blocks.counts(block) if isinstance(blocks, Counted) else blocks.read(block).counts
    if len(counts) != blocks.documents[block] or int(counts.sum(dtype=np.int64)) != blocks.tokens[block]:
        raise CorruptManifest(
            f"source {blocks.name}", f"block {block} has documents of other lengths than the manifest counts"
        )
    return counts


def lengths_of(blocks: Blocks, cache: Path | None, processes: int = 1) -> Counts:
    """Tokens of every document, block after block, uint32 [documents]: from the index in `cache`, else made.

    Raises:
        CorruptManifest: see `counts_of`; or the disk of the cache gives back other bytes than were written.
        OSError: the index cannot be written.
    """
    spans = _every_block(blocks, processes)
    if cache is None:
        return np.concatenate([np.empty(0, np.uint32), *spans])
    path, key = lengths_path(blocks, cache)
    counts = read_counts(path, key)
    if counts is None:
        pieces = (np.ascontiguousarray(part, "<u4").view(np.uint8).data for part in spans)
        path.unlink(missing_ok=True)  # damaged
        write_parts(path, key, [(int(blocks.documents.sum()), "<u4")], [pieces])
        counts = read_counts(path, key)
    if counts is None or len(counts) != blocks.documents.sum():
        raise CorruptManifest(
            str(path),
            "the index of lengths is not what was written: name a folder on another disk by cache=",
        )
    return counts


def read_counts(path: Path, key: bytes) -> Counts | None:
    """The array of uint32 in a file; None if there is none, or a damaged one."""
    try:
        arrays = read_arrays(path, key, ["<u4"])
    except OSError:
        return None
    return arrays[0] if arrays and len(arrays) == 1 else None


def lengths_path(blocks: Blocks, cache: Path) -> tuple[Path, bytes]:
    """The file of a source's lengths, and its key."""
    digest = canonical_json.digest([blocks.identity])[:32]
    return cache / "lengths" / f"{digest}.tokens.arrays", bytes.fromhex(digest)


def _every_block(blocks: Blocks, processes: int) -> Iterator[Counts]:
    """In order, in parts."""
    spans = [range(low, min(low + SPAN, len(blocks.tokens))) for low in range(0, len(blocks.tokens), SPAN)]
    if min(processes, len(spans)) < 2:
        with ThreadPoolExecutor(READERS, "bamba-lengths") as threads:
            yield from (_span(threads, blocks, span) for span in spans)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _Reader.begin, (blocks,)) as pool:
        yield from bounded_map(pool, _Reader.read, spans, 4 * processes)


def _span(threads: ThreadPoolExecutor, blocks: Blocks, span: range) -> Counts:
    return np.concatenate(list(threads.map(partial(counts_of, blocks), span)))


class _Reader:
    """A process of the pool: blocks and threads are there once."""

    blocks: ClassVar[Blocks]
    threads: ClassVar[ThreadPoolExecutor]

    @classmethod
    def begin(cls, blocks: Blocks) -> None:
        cls.blocks, cls.threads = blocks, ThreadPoolExecutor(READERS, "bamba-lengths")

    @classmethod
    def read(cls, span: range) -> Counts:
        return _span(cls.threads, cls.blocks, span)
