"""What may be done to documents before they are packed: other ids of the same number, and tokens that are no targets.

A transform is a function of one document, put into TRANSFORMS under a name; a plan names it, so that a run cannot go on
with another one by accident. It is applied when a block is made ready for an epoch, may be another in each epoch, and
costs nothing afterwards. Where rows lie depends on the lengths of documents, so these it must keep: one that does not
is refused, with the document. To add tokens, cut others, as `fim` does, or change the text before it is tokenized.

    TRANSFORMS["half-fim"] = partial(fim, prefix=100, middle=101, suffix=102, rate=0.5)
    build_loader(url, document_transform="half-fim")

A plan does not know what a function does: if you change one that has been in use, give it another name. Worker
processes that are not forked must import the module that names it, too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import UserError
from bamba_data.format.shard import Tokens

from ..order.permutation import derive_key
from ..sources.base import Blocks, Candidates

#: Ids with this bit set are no targets, in segments of transformed documents.
NO_TARGET = np.uint32(1 << 31)
IDS = np.uint32((1 << 31) - 1)


class Document(NamedTuple):
    """What a transform is given.

    Attributes:
        ids: uint32 [tokens], as stored, without delimiters; read-only.
        source: its name.
        epoch: 0 and up.
        block: of the source.
        document: its place in the block.
        dice: 64 bits of this document and epoch, the same whenever it is asked: `np.random.default_rng(dice)`.
    """

    ids: NDArray[np.uint32]
    source: str
    epoch: int
    block: int
    document: int
    dice: int


class Changed(NamedTuple):
    """As many `ids`; `targets` says of each whether it is learned (None: all are)."""

    ids: NDArray[Any]
    targets: NDArray[np.bool_] | None = None


DocumentTransform = Callable[[Document], Changed]
TRANSFORMS: dict[str, DocumentTransform] = {}


def transform_of(name: str) -> DocumentTransform:
    """The transform of a name. Raises UserError where there is none."""
    if name not in TRANSFORMS:
        raise UserError(
            f"the plan transforms documents by {name!r}, and there are {sorted(TRANSFORMS)}: put it into "
            "loader.packing.document_transforms.TRANSFORMS before the loader is made"
        )
    return TRANSFORMS[name]


@dataclass(frozen=True)
class Transformed:
    """The blocks of a source under a transform. Ids are 32 bits, NO_TARGET among them."""

    blocks: Blocks
    transform: str
    function: DocumentTransform = field(repr=False)

    @property
    def name(self) -> str:
        return self.blocks.name

    @property
    def identity(self) -> str:
        return f"{self.blocks.identity}#{self.transform}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u4")

    @property
    def documents(self) -> NDArray[np.int64]:
        return self.blocks.documents

    @property
    def tokens(self) -> NDArray[np.int64]:
        return self.blocks.tokens

    @property
    def candidates(self) -> Candidates:
        return self.blocks.candidates

    def digest(self, block: int) -> bytes:
        """Of the tokens and the transform's name: what is kept of one is not taken for another's."""
        parts = (derive_key(half, self.transform, self.blocks.digest(block)) for half in (0, 1))
        return b"".join(part.to_bytes(8, "little") for part in parts)

    def read(self, block: int) -> Tokens:
        return self.blocks.read(block)

    def read_in(self, block: int, epoch: int, key: int | None) -> Tokens:
        """A block with its documents as an epoch has them."""
        stored = self.blocks.read(block)
        dice = derive_key(key or 0, "transform", self.transform, self.name, epoch, block)
        ids = [self._changed(ids, epoch, block, number, dice) for number, ids in _numbered(stored)]
        return Tokens(np.concatenate(ids) if ids else np.empty(0, self.dtype), stored.counts)

    def _changed(self, stored: NDArray[Any], epoch: int, block: int, number: int, dice: int) -> NDArray[np.uint32]:
        ids = stored.astype(np.uint32)
        ids.flags.writeable = False
        document = Document(ids, self.name, epoch, block, number, derive_key(dice, number))
        ids, targets = self.function(document)
        where = f"the transform {self.transform!r} made of document {number} of block {block:,} of {self.name!r}"
        if np.shape(ids) != stored.shape:
            raise UserError(
                f"{where}, which has {len(stored):,} tokens, {np.size(ids):,}: the order of rows follows from the "
                "lengths, so it must keep them (cut or fill; or change the text before it is tokenized)"
            )
        if len(ids) and not (np.issubdtype(np.asarray(ids).dtype, np.integer) and min(ids) >= 0 and max(ids) <= IDS):
            raise UserError(f"{where} something else than ids from 0 to 2**31 - 1")
        marked = np.array(ids, np.uint32)
        if targets is not None:
            if np.shape(targets) != marked.shape or np.asarray(targets).dtype != np.bool_:
                raise UserError(f"{where} targets that are not one bool for each of its {len(stored):,} tokens")
            marked[~np.asarray(targets)] |= NO_TARGET
        return marked


def _numbered(stored: Tokens) -> Iterator[tuple[int, NDArray[Any]]]:
    if len(stored.counts):
        yield from enumerate(stored.documents())


def read_in(blocks: Blocks, block: int, epoch: int, key: int | None) -> Tokens:
    """A block as an epoch has it: as stored, unless there is a transform."""
    changing = getattr(blocks, "read_in", None)
    tokens: Tokens = blocks.read(block) if changing is None else changing(block, epoch, key)
    return tokens


def has_marks(blocks: Blocks) -> bool:
    """Whether ids of these blocks may carry NO_TARGET: they were transformed, or came so (loader/chat)."""
    return isinstance(blocks, Transformed) or bool(getattr(blocks, "has_marks", False))


def fim(
    document: Document, prefix: int, middle: int, suffix: int, rate: float = 0.5, suffix_first: float = 0.5
) -> Changed:
    """Fill in the middle (Bavarian et al. 2022, arXiv 2207.14255): documents cut in three and put together anew.

    Args:
        document: what is transformed. One below 8 tokens stays as it is.
        prefix: the id that stands before the first part; `middle` and `suffix` before the others.
        middle: likewise.
        suffix: likewise.
        rate: the share of documents that this is done to.
        suffix_first: the share of those that begin with the suffix ("SPM" in the paper).

    Returns:
        As many ids: the document's last three tokens make room for the three.
    """
    dice = np.random.default_rng(document.dice)
    if len(document.ids) < 8 or dice.random() >= rate:
        return Changed(document.ids)
    ids = document.ids[:-3]
    low, high = sorted(dice.integers(0, len(ids) + 1, 2).tolist())
    before, between, after = ids[:low], ids[low:high], ids[high:]
    if dice.random() < suffix_first:
        parts = [[prefix, suffix], after, [middle], before, between]
    else:
        parts = [[prefix], before, [suffix], after, [middle], between]
    return Changed(np.concatenate([np.asarray(part, np.uint32) for part in parts]))
