"""A small source with every document as a candidate for being held out, by the ids in its shards.

A manifest lists one document in 200, so that a loader of millions of shards holds some out and reads none. Of a hundred
documents that is none, or one. So where a plan holds out more than is listed, the ids of a source that is small enough
are read, once a host, and kept in the cache folder. Which rows there are then depends on every id: the identity of the
source in such a plan is that of a dataset that lists all of its documents, and no other plan changes by it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from bamba_data.errors import CorruptShard, UserError
from bamba_data.format.holdout_candidates import LIMIT, LISTED_PPM, id_hash

from ..cache.array_file import read_arrays, write_arrays
from .base import Blocks
from .shard_index import content_of
from .shards import ShardBlocks

MOST_DOCUMENTS = 1 << 20  # of a source: 30 MB of ids to read


def for_holdout(sources: Mapping[str, Blocks], holdout_ppm: int) -> dict[str, Blocks]:
    """The sources as a plan that holds out so many of a million documents needs them.

    Raises:
        UserError: It is more than a source lists, and the source is too large, or is none of shards.
        CorruptShard: The ids in the shards are not those that the manifest lists.
    """
    if holdout_ppm <= LISTED_PPM:
        return dict(sources)
    return {name: _listing_all(name, blocks, holdout_ppm) for name, blocks in sources.items()}


def _listing_all(name: str, blocks: Blocks, holdout_ppm: int) -> Blocks:
    if not isinstance(blocks, ShardBlocks):
        why = "its documents are listed when text is read, one in 200"
    elif (documents := int(blocks.documents.sum())) > MOST_DOCUMENTS:
        why = f"it has {documents:,} documents, and of more than {MOST_DOCUMENTS:,} one in 200 is listed"
    else:
        return listing_all(blocks)
    raise UserError(f"holdout is {holdout_ppm / 1e6}: of source {name!r} it can be {LISTED_PPM / 1e6} at most ({why})")


def listing_all(blocks: ShardBlocks) -> ShardBlocks:
    """The same source, with every document as a candidate."""
    if blocks.lists_all:
        return blocks
    hashes = _hashes(blocks)
    counts = blocks.documents
    block = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    tokens = np.concatenate([blocks.counts(number) for number in range(len(counts))]) if len(counts) else hashes[:0]
    every: dict[str, NDArray[Any]] = {
        "candidate_block": block.astype(np.int64),
        "candidate_document": np.arange(len(block)) - first[block],
        "candidate_tokens": tokens.astype(np.int64),
        "candidate_hash": hashes,
    }
    listed = every["candidate_hash"] < np.uint64(LIMIT)
    for field, array in every.items():
        if not np.array_equal(array[listed], blocks.arrays[field]):
            raise CorruptShard(
                blocks.dataset.store.url, f"the ids of documents of source {blocks.name} are not those of the manifest"
            )
    arrays = {**blocks.arrays, **every}
    return replace(blocks, arrays=arrays, content=content_of(arrays), lists_all=True)


def _hashes(blocks: ShardBlocks) -> NDArray[np.uint64]:
    """Of the id of each document, in order; from the cache, or from the shards."""
    key = xxhash.xxh3_128_digest(f"{blocks.dataset.manifest.digest}/{blocks.name}".encode())
    path = blocks.cache / "document_hashes" / f"{key.hex()}.arrays"
    try:
        kept = read_arrays(path, key, ["<u8"])
    except OSError:
        kept = None
    if kept is not None and len(kept) == 1 and len(kept[0]) == int(blocks.documents.sum()):
        return kept[0]
    read = [id_hash(name) for block in range(len(blocks.documents)) for name in blocks.document_ids(block)]
    hashes = np.array(read, np.uint64)
    try:
        path.unlink(missing_ok=True)  # damaged
        write_arrays(path, key, [hashes])
    except OSError as error:
        raise UserError(
            f"the cache folder {blocks.cache} cannot be written ({error.strerror}): make room, or name another by "
            "cache= or $BAMBA_CACHE"
        ) from error
    return hashes
