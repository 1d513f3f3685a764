"""The documents that training never sees, as a source of their own: read once, in the order stored, not shuffled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError
from bamba_data.format.shard import Tokens

from ..global_order import Order, PlannedSource
from ..order.permutation import derive_key
from ..order.plan import MixPlan
from .base import Candidates

_NO_INTEGERS = np.empty(0, np.int64)
_NO_CANDIDATES = Candidates(_NO_INTEGERS, _NO_INTEGERS, _NO_INTEGERS, np.empty(0, np.uint64))


@dataclass(frozen=True)
class HeldoutBlocks:
    """The held-out documents of a source: a block for every block that has some. Implements `Blocks`."""

    source: PlannedSource

    @property
    def name(self) -> str:
        return self.source.blocks.name

    @property
    def identity(self) -> str:
        places = derive_key(self.source.heldout.blocks.tobytes(), self.source.heldout.documents.tobytes())
        return f"{self.source.blocks.identity}#holdout-{places:016x}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.blocks.dtype

    @property
    def has_marks(self) -> bool:
        return bool(getattr(self.source.blocks, "has_marks", False))

    @property
    def documents(self) -> NDArray[np.int64]:
        return self._counts[1]

    @property
    def tokens(self) -> NDArray[np.int64]:
        tokens = np.zeros(len(self._counts[0]), np.int64)
        np.add.at(tokens, np.searchsorted(self._counts[0], self.source.heldout.blocks), self.source.heldout.tokens)
        return tokens

    @property
    def candidates(self) -> Candidates:
        return _NO_CANDIDATES

    @cached_property
    def _counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the blocks that have some, and how many."""
        numbers, counts = np.unique(self.source.heldout.blocks, return_counts=True)
        return numbers.astype(np.int64), counts.astype(np.int64)

    def digest(self, block: int) -> bytes:
        return self.source.blocks.digest(int(self._counts[0][block]))

    def read(self, block: int) -> Tokens:
        number = int(self._counts[0][block])
        documents = self.source.blocks.read(number).documents()
        chosen = [documents[index] for index in self.source.heldout.documents_of(number).tolist()]
        return Tokens(np.concatenate(chosen), np.array([len(ids) for ids in chosen], np.uint32))


def holdout_order(order: Order) -> Order:
    """All held-out documents of a plan's sources, interleaved in the shares of their tokens.

    Read it with max_epochs=1 and at_end="all". The delimiters, packing and transform are the plan's.

    Raises:
        UserError: no document is held out.
    """
    sources: Mapping[str, HeldoutBlocks] = {
        name: HeldoutBlocks(order.source(name))
        for name in order.plan.sources
        if order.source(name).heldout.tokens.sum()
    }
    header = order.plan.header
    if not sources:
        documents = sum(int(order.source(name).blocks.documents.sum()) for name in order.plan.sources)
        enough = min(0.5, max(0.05, 8 / max(1, documents)))
        raise UserError(
            f"no document is held out: {header.holdout_ppm / 1e4:g} % of {documents:,} documents is none. Evaluate on "
            f"a text of your own, or hold out more from the first row on (holdout, such as {enough:.2g})"
        )
    last = order.plan.mixes[-1]
    plan = MixPlan.create(
        {name: int(heldout.tokens.sum()) for name, heldout in sources.items()},
        {name: heldout.identity for name, heldout in sources.items()},
        last.batch_rows,
        **header.model_dump(exclude={"format", "step_rows", "holdout_ppm", "shuffle", "window_rows"}),
        holdout_ppm=0,
        shuffle=False,
    )
    return Order(plan, sources)
