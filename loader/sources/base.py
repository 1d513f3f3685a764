"""What the order asks of a source: counts of its blocks, known at once, and their tokens, verified when read.

Everything above this file takes `Blocks`, wherever they lie: shards of a dataset (shards.py), text that is tokenized
when it is read (loader/text), documents held out (holdout.py), or yours.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property
from bamba_data.format.shard import Tokens


class Blocks(Protocol):
    """A source, cut into blocks: what the order is made of."""

    @property
    def name(self) -> str:
        """By which plans, weights and caps speak of it."""

    @property
    def identity(self) -> str:
        """Changes with any token, document border or candidate, and with nothing else."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of ids."""

    @property
    def documents(self) -> NDArray[np.int64]:
        """How many documents each block has: [blocks]."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """How many tokens each block has, without delimiters: [blocks]."""

    @property
    def candidates(self) -> "Candidates":
        """The documents that may be held out."""

    def read(self, block: int) -> Tokens:
        """A block's ids and documents, verified. Raises CorruptShard where they are not what was published."""

    def digest(self, block: int) -> bytes:
        """16 bytes that change with any token or document boundary of the block."""


class Candidates(NamedTuple):
    """Documents that may be held out: block of the source, place in it, tokens, hash of the id. [candidates] each."""

    block: NDArray[np.int64]
    document: NDArray[np.int64]
    tokens: NDArray[np.int64]
    hash: NDArray[np.uint64]


class Indexed:
    """What an index says of blocks: `arrays` by the names of FIELDS."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def documents(self) -> NDArray[np.int64]:
        return self.arrays["documents"]

    @property
    def tokens(self) -> NDArray[np.int64]:
        return self.arrays["tokens"]

    @cached_property
    def candidates(self) -> Candidates:
        return Candidates(*(self.arrays[f"candidate_{field}"] for field in Candidates._fields))

    def digest(self, block: int) -> bytes:
        return self.arrays["digest"][2 * block : 2 * block + 2].tobytes()
