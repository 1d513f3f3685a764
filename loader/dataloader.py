"""The loader for torch: batches of one provable order, for this rank, read ahead by threads.

`Loader` is a torch DataLoader over a `TokenDataset`. It reads ahead with threads, so that there are no worker
processes, sockets or shared memory to be left behind. A DataLoader of your own over `loader.dataset` gives the same
sequence with processes, and one over `loader.rows` any rows in any order.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset, open_dataset

from .cache.location import default_cache
from .global_order import Order
from .integrations import accelerate
from .order import resume
from .order.format1_names import former_plans, renamed
from .order.plan import MixPlan, loads, read_plan
from .packing.segments import SegmentCache
from .rank_batches import START, Place, Walk
from .read_ahead import process
from .reading import Reading
from .row_dataset import RowDataset
from .sources.descent import follow
from .token_dataset import PieceReader, TokenDataset, Transform, length, tensors, walk_of

LOG = logging.getLogger(__name__)

AHEAD_BATCHES = 256  # at most: a future costs more than a batch of a few tokens


class Loader(DataLoader[Any]):
    """A DataLoader of whole batches of one rank, or of micro-batches.

    Each is a dict of tensors (see `loader.collate`) with `waited_seconds`, how long it was waited for; or what
    `transform` makes of that.

        for batch in loader         `on_end` (see Reading) says what a second pass is
        next(loader)                the next batch, without a pass
        len(loader)                 batches of a pass; TypeError where there is no end
        loader.rows[g]              any row of the order by its global number, out of turn
        loader.dataset              a TokenDataset of the same order, reading and transform
        loader.order.plan, loader.global_order   what decides which rows come
        loader.state_dict()         plan and place, the same on every rank: of what was received, never of what was
                                    read ahead
        loader.load_state_dict(s)   go on there, with any world size and number of workers
        loader.with_plan(plan)      this loader where it is, under a plan that adds to its own
        loader.with_dataset(url)    this loader where it is, with a version derived from the one that it reads

    There is one place in a loader: two iterators of it share it. It may be pickled, and used after a fork: the copy
    goes on from the same place on its own. Its threads are no DataLoader's workers, so its `num_workers` is 0.

    Args:
        order: Which row comes at which place.
        reading: Which of them are read here, and how.
        transform: A function of a batch, applied in the caller's thread.
        plan_is_given: A plan that somebody chose stays, whatever plan a state has; one made of arguments gives way to
            a state's plan that adds to it.
    """

    #: Accelerate's own mark: `prepare` leaves such a loader as it is, where it would deal the rows out a second time.
    _is_accelerate_prepared = True
    #: Its mark for a loader whose state belongs into `save_state` and comes back by `load_state`.
    use_stateful_dataloader = True
    #: What it would take off the end of gathered metrics: nothing, no row is served twice.
    remainder = -1
    dataset: TokenDataset

    def __init__(
        self, order: Order, reading: Reading, transform: Transform | None = None, *, plan_is_given: bool = True
    ) -> None:
        if transform is not None and not callable(transform):
            raise UserError(f"transform is {transform!r:.80}: it must be a function of a batch")
        self._plan_is_given = plan_is_given
        super().__init__(TokenDataset(order, reading, transform=transform), batch_size=None, collate_fn=_as_it_is)
        self._accepted: list[str] = []
        self._at, self._was_read, self._was_loaded, self._has_warned = START, False, False, False
        self._reader = self._new_reader()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the same place, its own threads."""
        how = (self.order, self.reading, self.dataset.transform, self._plan_is_given)
        return _unpickled, (*how, self.state_dict())

    def _new_reader(self) -> PieceReader:
        header, reading = self.plan.header, self.reading
        rows = reading.micro_rows or -(-header.step_rows // reading.world_size)
        pieces = min(reading.prefetch_tokens // (rows * header.row_tokens // reading.context_ranks), AHEAD_BATCHES)
        depth = max(reading.num_workers + 1, pieces)
        return PieceReader(self.order, reading, self._walk, reading.num_workers, depth)

    def _reader_here(self) -> PieceReader:
        """That of this process: a fork makes its own."""
        if self._reader.process != process():
            self._reader = self._new_reader()
        return self._reader

    @property
    def order(self) -> Order:
        """Which row comes at which place."""
        return self.dataset.order

    @property
    def reading(self) -> Reading:
        """Which of them are read here, and how."""
        return self.dataset.reading

    @property
    def settings(self) -> Reading:
        """`reading`, under its name of before 0.2."""
        return self.reading

    @property
    def plan(self) -> MixPlan:
        """All that decides the order, as a value that can be saved."""
        return self.order.plan

    @property
    def rows(self) -> RowDataset:
        """The same order by global row numbers: a map-style dataset, which this loader's place does not move."""
        return RowDataset(self.order, self.reading)

    @property
    def segments(self) -> SegmentCache:
        """The cache of blocks, with its counts."""
        return self._reader.cache

    @property
    def _walk(self) -> Walk:
        return self.dataset.walk

    # ---- iteration

    def __iter__(self) -> "Loader":  # type: ignore[override]
        again = self.reading.on_end in ("again", None) and self._walk.steps_in_all is not None
        if self._walk.piece(self._at) is None:
            self._at_the_end(again)
        elif again and self._was_read:
            if self.reading.on_end is None:
                self._warn_once(f"a pass begins at row 0 again, though the last one was left at row {self._at.row:,}")
            self._seek(START)
        self._was_loaded = False
        accelerate.begin(self)
        return self

    @property
    def end_of_dataloader(self) -> bool:
        """Whether the last batch of the pass was handed out: Accelerate then makes a step of what was accumulated."""
        return self._walk.piece(self._at) is None

    def _at_the_end(self, again: bool) -> None:
        if self.reading.on_end == "raise":
            raise UserError(
                f"this loader was read to its end, after {self._at.steps:,} batches: on_end='again' reads it again"
            )
        if again and (self.reading.on_end == "again" or not self._was_loaded):
            self._seek(START)
        else:
            self._warn_once(f"there is nothing left after {self._at.steps:,} batches, the end of this pass")

    def _warn_once(self, what: str) -> None:
        if not self._has_warned:
            LOG.warning("%s: on_end='stop', 'again' or 'raise' says what you want", what)
        self._has_warned = True

    def __next__(self) -> Any:
        began = time.perf_counter()
        reader = self._reader_here()
        piece = self._walk.piece(self._at)
        if piece is None:
            accelerate.end(self)
            raise StopIteration
        following = self._walk.following(self._at, piece)
        try:
            batch: Any = tensors(reader.ahead.get(self._at, piece))
            batch["waited_seconds"] = time.perf_counter() - began
            if self.dataset.transform is not None:
                batch = self.dataset.transform(batch)
            reader.ahead.fill(following)
        except BaseException:
            reader.ahead.drop()  # the next call makes this batch anew
            raise
        # Nothing that can fail or be interrupted comes between this and the caller: CPython looks for signals at calls.
        self._was_read = True
        self._at = following
        return batch

    def __len__(self) -> int:
        """Batches of a pass, from row 0. TypeError where there is no end: no max_epochs and no max_steps."""
        return length(self._walk.pieces(START))

    def close(self) -> None:
        """Stop reading ahead. The loader may be used again."""
        if self._reader.process == process():
            self._reader.ahead.close()

    def _seek(self, place: Place) -> None:
        self._reader_here().ahead.drop()
        self._at, self._was_read = place, False

    # ---- state

    def cursor(self) -> dict[str, Any]:
        """The state without the plan, for who keeps the plan beside it."""
        place = self._at
        state = resume.cursor_at(self.plan, place.row, place.steps).to_json()
        state["accepted"] = "\n".join(self._accepted)
        if self.reading.micro_rows is not None:
            state["micro"] = self._walk.written(place)
        return state

    def state_dict(self) -> dict[str, Any]:
        """Flat and plain JSON, the same on every rank; less than 1 KiB beside the plan.

        format, row, steps, prefix   the place: the first row not received, batches so far, digest of the plan so far
        accepted                     what `accept_other_order` was given, the last three times
        plan                         the plan, as JSON text
        micro                        with `micro_rows`: the place inside a batch, if it is inside one
        """
        return self.cursor() | {"plan": self.plan.dumps().decode()}

    def load_state_dict(self, state: Mapping[str, Any], accept_other_order: str | None = None) -> None:
        """Go on where `state` is, with any world size and number of workers.

        Under the plan of the state, if that adds to this loader's; a plan that was given to build_loader stays, and may
        add to the one of the state.

        Args:
            state: What `state_dict` gave, on any rank.
            accept_other_order: Why to go on though the rows before are not of this order. It stays in the state.

        Raises:
            CursorMismatch: The rows before `state` are not of this order; it names what differs, with both values.
            UserError: The state is damaged, or lies inside a batch of other micro-batches.
        """
        cursor = resume.from_json(dict(state) if isinstance(state, Mapping) else state)
        accepted = (_text_in(state, "accepted") or "").splitlines()
        plan_text = _text_in(state, "plan")
        saved = None if plan_text is None else loads(plan_text.encode(), "the plan in the state of the loader")
        order, walk = self.order, self._walk
        if saved is not None and not self._plan_is_given:
            plan = renamed(saved, order.available)
            if plan != self.plan and plan.extends(self.plan):
                order = Order(plan, order.available, self.reading.folder)
                walk = walk_of(order, self.reading)
        try:
            resume.check(cursor, order.plan, former_plans(order), saved)
        except resume.CursorMismatch:
            if not accept_other_order:
                raise
            order.plan.begin(cursor.row)
            why = " ".join(accept_other_order.encode("ascii", "backslashreplace").decode().split())[:100]
            accepted.append(f"row {cursor.row}, from {cursor.prefix[:16]}: {why}")
        place = Place(cursor.row, cursor.steps, walk.micro_of(state.get("micro", "")))
        # All that can be refused was: from here on the loader changes.
        self.close()
        if order is not self.order:
            self.dataset.follow(order)
            self._reader = self._new_reader()
        self._accepted = accepted[-3:]  # the state stays below 1 KiB
        self._seek(place)
        self._was_loaded = True

    def with_plan(self, plan: MixPlan) -> "Loader":
        """This loader where it is, under a plan that adds to its own. Raises CursorMismatch if it changes the past."""
        order = Order(read_plan(plan), self.order.available, self.reading.folder)
        other = Loader(order, self.reading, self.dataset.transform)
        other.load_state_dict(self.cursor())
        return other

    def with_dataset(self, data: str | Dataset | Path) -> "Loader":
        """This loader where it is, with a version that was derived from the one that it reads.

        What was served stays as it is. Documents that left are no targets from here on, and in no later epoch; what
        came to a source is a source of its own that shares its weight by tokens (see sources.descent).

        Args:
            data: The derived version. To go on later: `build_loader(data, plan=state["plan"])`.

        Raises:
            UserError: It was not derived from this data, or the loader is inside a batch.
        """
        if self._at.micro:
            raise UserError("the loader is inside a batch: take its other micro-batches first")
        newer = data if isinstance(data, Dataset) else open_dataset(data)
        folder = self.reading.folder or default_cache()
        plan, available = follow(self.plan, self.order.available, newer, self._at.row, folder)
        other = Loader(Order(plan, available, self.reading.folder), self.reading, self.dataset.transform)
        other.load_state_dict(self.cursor())
        return other


def _text_in(state: Mapping[str, Any], name: str) -> str | None:
    text = state.get(name)
    if not isinstance(text, str | None):
        raise UserError(f"the state of the loader is damaged: {name} is no text")
    return text


def _as_it_is(batch: Any) -> Any:
    return batch


def _unpickled(
    order: Order, reading: Reading, transform: Transform | None, plan_is_given: bool, state: Mapping[str, Any]
) -> Loader:
    loader = Loader(order, reading, transform, plan_is_given=plan_is_given)
    loader.load_state_dict(state)
    return loader
