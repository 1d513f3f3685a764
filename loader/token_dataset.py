"""The order as a torch IterableDataset of whole batches, for a DataLoader of your own and its worker processes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from .arguments import whole_number
from .collate import Arrays
from .global_order import Order
from .integrations.wrappers import check_reader
from .order import resume
from .order.format1_names import former_plans
from .order.resume import Cursor
from .rank_batches import Piece, Place, Walk
from .read_ahead import ReadAhead, process
from .reading import Reading
from .row_reader import RowReader
from .stop import steps_until

Transform = Callable[[dict[str, Any]], Any]


class PieceReader:
    """Reads what a rank is handed out. Of this process only: threads and locks do not survive a fork.

    Attributes:
        process: The id of the process that it may be used in.
        cache: The blocks that it reads, with its counts.
        ahead: The queue of pieces that `threads` threads read ahead, `depth` at most.
    """

    def __init__(self, order: Order, reading: Reading, walk: Walk, threads: int = 0, depth: int = 0) -> None:
        self.process = process()
        self._rows = RowReader.of(order, reading)
        self.cache = self._rows.cache
        self.ahead = ReadAhead(walk, self.read, threads, depth)

    def read(self, piece: Piece) -> Arrays:
        """The arrays of a piece, now."""
        return self._rows.read(piece.batch, piece.micro)


def tensors(arrays: Arrays) -> dict[str, Any]:
    """The same memory, as torch has it."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def walk_of(order: Order, reading: Reading) -> Walk:
    """The pieces that a rank is handed out, up to the end that `reading` sets."""
    steps = steps_until(order, reading.max_epochs, reading.at_end, reading.max_steps)
    return Walk(order.plan, reading.world_size, reading.micro_rows, steps)


def length(pieces: int | None) -> int:
    """For `len`. Raises TypeError, as `len` does, where there is no end."""
    if pieces is None:
        raise TypeError("this loader has no end: give max_epochs or max_steps")
    return pieces


class TokenDataset(IterableDataset[Any]):
    """Batches of one rank: `DataLoader(dataset, batch_size=None, num_workers=n)`.

    Every element is a whole batch of this rank, or a micro-batch, as `loader.collate` describes it. Workers take them
    in turn, which is the order in which a DataLoader asks them, so any number of them gives the same sequence. Every
    pass begins at the dataset's start. torchdata's StatefulDataLoader keeps the state by itself.

    Args:
        order: Which row comes at which place.
        reading: Which rows are read here. A DataLoader's workers read ahead, so its `num_workers` has no meaning here.
        start: Where a pass begins; None is row 0.
        transform: A function of an element, applied in the worker.
        micro: The place inside the batch at `start`, as a loader's state has it.

    Raises:
        CursorMismatch: `start` is of another order.
    """

    def __init__(
        self,
        order: Order,
        reading: Reading,
        start: Cursor | None = None,
        transform: Transform | None = None,
        micro: str = "",
    ) -> None:
        super().__init__()
        self.reading, self.transform = reading, transform
        self.follow(order)
        if start is not None:
            self._begin(start, micro)

    @property
    def settings(self) -> Reading:
        """`reading`, under its name of before 0.2."""
        return self.reading

    def follow(self, order: Order) -> None:
        """Serve that order from now on, from its beginning."""
        self.order, self.walk = order, walk_of(order, self.reading)
        self._begin(resume.cursor_at(order.plan, 0, 0), "")

    def _begin(self, start: Cursor, micro: str, taken: int = 0) -> None:
        resume.check(start, self.order.plan, former_plans(self.order))
        self._first = Place(start.row, start.steps, self.walk.micro_of(micro))
        self.start, self._micro = start, micro
        self._taken = self._skip = taken

    def __iter__(self) -> Iterator[Any]:
        """A pass, or this worker's part of it.

        Raises:
            UserError: Whoever iterates would collect the batches into others, or deal them out to other ranks.
        """
        # Not in the generator: what a loaded state leaves out is left out of this pass, even if it is never read.
        check_reader()
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        taken, self._skip = self._skip, 0
        self._taken = taken
        return self._elements(number + taken * workers, workers)

    def _elements(self, first: int, step: int) -> Iterator[Any]:
        reader = PieceReader(self.order, self.reading, self.walk)
        for piece in self.walk.every(self._first, first, step):
            batch = tensors(reader.read(piece))
            element = self.transform(batch) if self.transform else batch
            self._taken += 1
            yield element

    def __len__(self) -> int:
        """Elements of a pass. TypeError where there is no end."""
        return length(self.walk.pieces(self._first))

    def state(self, batches: int) -> dict[str, Any]:
        """The state after so many elements were received from the beginning of this dataset."""
        place = self.walk.after(self._first, whole_number("batches", batches, 0))
        state = resume.cursor_at(self.order.plan, place.row, place.steps).to_json()
        return state | ({"micro": self.walk.written(place)} if place.micro else {})

    def resumed(self, state: Mapping[str, Any], reading: Reading | None = None) -> "TokenDataset":
        """This dataset from a state on, perhaps as another rank of another world."""
        start, micro = resume.from_json(dict(state)), str(state.get("micro", ""))
        return TokenDataset(self.order, reading or self.reading, start, self.transform, micro)

    # torchdata's StatefulDataLoader keeps one of these for each worker.

    def state_dict(self) -> dict[str, Any]:
        """This worker's place in a pass."""
        return {"start": self.start.to_json() | {"micro": self._micro}, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next pass goes on there. Raises UserError for a damaged state, CursorMismatch for another order's."""
        start, taken = resume.from_json(state.get("start")), whole_number("taken", state.get("taken"), 0)
        self._begin(start, str(state["start"].get("micro", "")), taken)
