"""Rows that a function of their number makes, as a run's feed: for small models that learn one thing.

Ranks take rows in turn, and where they share rows (`compute.context_ranks`) each has its part of the tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.distributed.fsdp import World

HELD_OUT = 10**9  # the first row that training does not reach


class MadeRows(ABC):
    """Of rows without end; a source of one name. See `trainer.data.protocol.Feed`."""

    def __init__(self, name: str, batch_rows: int, world: World) -> None:
        self.sources = (name,)
        self.batch_rows, self.world, self.steps = batch_rows, world, 0

    @abstractmethod
    def made(self, row: int) -> dict[str, Tensor]:
        """One whole row, as the loader's batches hold it."""

    @property
    def row(self) -> int:
        return self.steps * self.batch_rows

    def epochs(self, row: int) -> Mapping[str, float]:
        return {self.sources[0]: 0.0}

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        while True:
            first = self.row
            self.steps += 1
            yield self.batch(first)

    def batch(self, first: int) -> Mapping[str, Tensor]:
        """This rank's part of the batch that begins with row `first`."""
        context = self.world.context
        own = range(first, first + self.batch_rows)[self.world.data_rank :: self.world.data_ranks]
        made = [self.made(row) for row in own]
        whole = {name: torch.stack([row[name] for row in made]) for name in made[0]}
        return {
            name: one.chunk(context.ranks, 1)[context.rank] if one.dim() > 1 else one for name, one in whole.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]

    def skip(self, first_row: int, rows: int, why: str) -> None:
        raise NotImplementedError("made rows have no bad ones")

    def held_out(self) -> tuple[Sequence[str], Iterable[Mapping[str, Tensor]]]:
        return self.sources, [self.batch(HELD_OUT + at) for at in (0, 10**6)]

    def close(self) -> None:  # noqa: B027
        """Nothing is open."""
