"""Which documents may be held out of training: one in 200, listed in the manifest, chosen by a hash of their ids.

A loader holds out fewer of them, by a key of its own, and must know their tokens without reading a shard: that is why
they are listed when the data is made. The hash is of the id alone, so that a document that two sources have under one
id (FineWeb-edu and its deduplicated form) is held out of both.
"""

from typing import NamedTuple

import xxhash

ONE_IN = 200  # a loader holds out more of small sources only, whose ids it reads
LIMIT = 2**64 // ONE_IN
LISTED_PPM = 10**6 // ONE_IN


class Candidate(NamedTuple):
    """`document` counts within the block. `hash` is below LIMIT."""

    block: int
    document: int
    tokens: int
    hash: int


def id_hash(document_id: str) -> int:
    """xxh3-64 of the id in UTF-8."""
    return xxhash.xxh3_64_intdigest(document_id.encode())
