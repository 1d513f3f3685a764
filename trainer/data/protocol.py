"""What a run needs of a loader: an iterator over this rank's rows of each step, and a state that says where it is.

Ranks that share rows (`World.context`) get the same rows, each its part of the tokens of every one, with labels past
the cut, and positions and documents counted over the row.

`trainer.data.feed` makes the real one of `loader.build_loader`. Nothing else of the trainer knows where rows come from.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Feed(Protocol):
    """`sources` are the names behind the indices in a batch's `source`. After the i-th batch of the iterator,
    `state_dict` is that of the first i batches, on every rank the same; plain JSON."""

    @property
    def sources(self) -> Sequence[str]: ...

    @property
    def row(self) -> int:
        """The first row of the global order that was not yet given out, to any rank."""
        ...

    def epochs(self, row: int) -> Mapping[str, float]:
        """How far each source has been read by the rows before `row`, in epochs; what was left out counts as read."""
        ...

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def skip(self, first_row: int, rows: int, why: str) -> None:
        """Leave rows out that were not given out yet, of which some may be left out already; the state remembers it.
        Take a new iterator afterwards."""

    def held_out(self) -> tuple[Sequence[str], Iterable[Mapping[str, Tensor]]]:
        """Names of sources and this rank's batches of rows that are never trained on, equally many on every rank."""
        ...

    def close(self) -> None: ...
