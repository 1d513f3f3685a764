"""What a run needs of a loader: an iterator over this rank's rows of each step, and a state that says where it is.

`loader.build_loader` makes the real one. Nothing else of the trainer knows where rows come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Feed(Protocol):
    """`sources` are the names behind the indices in a batch's `source`. After the i-th batch of the iterator,
    `state_dict` is that of the first i batches, on every rank the same; plain JSON."""

    @property
    def sources(self) -> Sequence[str]: ...

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
