"""The loader for torch: batches of one provable order, for this rank.

    loader = build_loader(url, weights={"web": 3, "code": 1}, row_tokens=4096, batch_rows=384, rank=rank,
                          world_size=world_size)
    for batch in loader: ...

`Loader` is a torch DataLoader over a `TokenDataset`, which is a torch IterableDataset of whole batches. It reads ahead
with threads, so that there are no worker processes, sockets or shared memory to be left behind. A DataLoader of your
own over the dataset gives the same sequence with processes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bamba_data.errors import UserError

from .cache.location import default_cache
from .global_order import Order
from .integrations import accelerate
from .integrations.wrappers import check_reader
from .open_data import Data, available, open_data
from .order import resume as cursors
from .order.format1_names import former_plans, renamed
from .order.plan import MixPlan, loads, read_plan
from .order.resume import Cursor
from .order_spec import Asked, count, switch
from .packing.segments import SegmentCache
from .rank_batches import START, Piece, Place, Walk
from .read_ahead import ReadAhead, process
from .row_reader import DEFAULT_FIELDS, FIELDS, Arrays, RowReader, Share
from .sources.holdout import holdout_order
from .stop import steps_until

LOG = logging.getLogger(__name__)

PREFETCH_TOKENS = 1 << 20
AHEAD_BATCHES = 256  # at most: a future costs more than a batch of a few tokens
CACHE_BYTES = 64 << 30

Transform = Callable[[dict[str, Any]], Any]
OnEnd = Literal["stop", "again", "raise"]


@dataclass(frozen=True)
class Settings:
    """What a rank asks for, beside the plan. It changes who reads and when, never the order."""

    share: Share = field(default_factory=lambda: Share(0, 1))
    fields: tuple[str, ...] = DEFAULT_FIELDS
    cache: Path | None = None
    cache_bytes: int = CACHE_BYTES
    max_epochs: int | None = None
    at_end: str = "first"
    max_steps: int | None = None
    micro_rows: int | None = None

    def __post_init__(self) -> None:
        world_size = count("world_size", self.share.world_size, 1)
        rank = count("rank", self.share.rank, 0)
        if rank >= world_size:
            raise UserError(f"there is no rank {rank} of {world_size}")
        numbers = {"cache_bytes": 0, "max_epochs": 1, "max_steps": 1, "micro_rows": 1}
        for name, least in numbers.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, count(name, value, least))
        switch("pad_rows", self.share.pad)
        object.__setattr__(self, "share", replace(self.share, rank=rank, world_size=world_size))
        object.__setattr__(self, "fields", _names(self.fields))
        object.__setattr__(self, "cache", None if self.cache is None else Path(self.cache))
        if unknown := sorted(set(self.fields) - set(FIELDS)):
            raise UserError(f"fields {unknown} are none of {FIELDS}")
        if self.at_end not in ("first", "all"):
            raise UserError(f"at_end is {self.at_end!r}: it can be 'first' or 'all'")


def build_loader(
    data: Data | Path | Sequence[Data | Path],
    weights: Mapping[str, float | int | str] | None = None,
    row_tokens: int | None = None,
    batch_rows: int | None = None,
    seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 2,
    *,
    plan: MixPlan | Path | str | bytes | Mapping[str, Any] | None = None,
    delimiters: str | None = None,
    bos_id: int | None = None,
    eos_id: int | None = None,
    holdout: float | None = None,
    packing: str | None = None,
    window_rows: int | None = None,
    shuffle: bool | None = None,
    document_transform: str | None = None,
    pad_rows: bool = False,
    micro_rows: int | None = None,
    split: str = "train",
    fields: Sequence[str] = DEFAULT_FIELDS,
    max_epochs: int | None = None,
    at_end: str = "first",
    max_steps: int | None = None,
    on_end: OnEnd | None = None,
    prefetch_tokens: int = PREFETCH_TOKENS,
    transform: Transform | None = None,
    cache: Path | str | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> "Loader":
    """This rank's rows of every batch of `batch_rows` rows.

    data         URL of a dataset or a TextSource, or several, whose sources all have different names
    weights      by source, in any unit; None takes every source by its tokens. A weight of 0 leaves one out
    row_tokens   4096 unless told; batch_rows 1, seed 0, delimiters "eos", holdout 0.0005, packing "chunk"
    delimiters   "eos", "bos", "both" or "none": around every document. Ids from the tokenizer, or `bos_id`, `eos_id`
    packing      "chunk" fills every row and cuts documents; "best-fit" cuts none that fits into a row, fills 99.6 %
    shuffle      False reads blocks and documents in the order stored, still mixed
    num_workers  threads that read ahead; 0 reads when asked. Any number gives the same batches
    plan         a MixPlan (or its file, or its JSON). What else is said of weights, row_tokens, batch_rows, seed,
                 packing, ... must then be what the plan says
    document_transform  what is done to every document before it is packed, by its name (packing/document_transforms.py)
    pad_rows     all ranks get equally many rows, filled up with masked ones (row -1)
    micro_rows   hand a rank's rows of a batch out in micro-batches of exactly so many, the last filled up; every rank
                 has equally many of them
    split        "train", or "holdout": the held-out documents once, in order, not shuffled
    max_epochs   end with the batch in which the first source (`at_end="all"`: the last) has been read so many times
    on_end       what a loader that has an end does when it is read again:
                 "again"  every `iter()` is a whole pass from row 0; the first one after `load_state_dict` goes on
                          where the state is, and begins a pass if that is the end
                 "stop"   one pass in all: every `iter()` goes on where the last one was left; after the end, nothing
                 "raise"  as "stop", but to ask for more after the end is a UserError
                 None     as "again", but a state at the end of a pass has nothing left of it, as a finished run has not

    Raises UserError for what cannot be, and for what contradicts the plan, naming both.
    """
    if split not in ("train", "holdout"):
        raise UserError(f"split is {split!r}: it can be 'train' or 'holdout'")
    folder = Path(cache) if cache is not None else default_cache()
    settings = Settings(
        Share(rank, world_size, pad_rows),
        _names(fields),
        folder,
        cache_bytes,
        max_epochs,
        at_end,
        max_steps,
        micro_rows,
    )
    asked = Asked(
        weights,
        row_tokens,
        batch_rows,
        seed,
        delimiters,
        bos_id,
        eos_id,
        holdout,
        packing,
        window_rows,
        shuffle,
        document_transform,
    )
    given = None if plan is None else read_plan(plan)
    opened = open_data(data, folder)
    sources = available(opened)
    if given is None:
        tokens = {name: int(blocks.tokens.sum()) for name, blocks in sources.items()}
        made = asked.plan(opened, tokens, {name: blocks.identity for name, blocks in sources.items()})
    else:
        asked.agree(given, opened)
        made = given
    order = Order(made, sources, folder)
    if split == "holdout":
        order, settings = holdout_order(order), replace(settings, max_epochs=1, at_end="all")
        on_end = on_end or "again"
    return Loader(
        order, settings, num_workers, prefetch_tokens, transform, on_end=on_end, plan_is_given=given is not None
    )


def _names(fields: Sequence[str]) -> tuple[str, ...]:
    if isinstance(fields, str):
        raise UserError(f"fields are {fields!r}: they must be a list of names")
    return tuple(fields)


class _Reading:
    """The pieces of an order for one rank, as tensors. Of this process: threads and locks do not survive a fork."""

    def __init__(self, order: Order, settings: Settings, walk: Walk, threads: int, depth: int) -> None:
        self.process = process()
        self.cache = SegmentCache(settings.cache / "segments" if settings.cache else None, settings.cache_bytes)
        reader = RowReader(
            order, self.cache, settings.share, settings.fields, settings.max_epochs, micro_rows=settings.micro_rows
        )

        def read(piece: Piece) -> Arrays:
            return reader.read(piece.batch, piece.micro)

        self.read = read
        self.ahead = ReadAhead(walk, read, threads, depth)


def _tensors(arrays: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _walk(order: Order, settings: Settings) -> Walk:
    steps = steps_until(order, settings.max_epochs, settings.at_end, settings.max_steps)
    return Walk(order.plan, settings.share.world_size, settings.micro_rows, steps)


class TokenDataset(IterableDataset[Any]):
    """The order for a DataLoader of your own: `DataLoader(dataset, batch_size=None, num_workers=n)`.

    Every element is a whole batch of this rank, or a micro-batch. Workers take them in turn, which is the order in
    which a DataLoader asks them, so any number of them gives the same sequence. Every pass begins at the dataset's
    start. `state_dict` after k elements received: `dataset.state(k)`; torchdata's StatefulDataLoader keeps it by
    itself. `transform` is applied to every element, in the worker.
    """

    def __init__(
        self,
        order: Order,
        settings: Settings,
        start: Cursor | None = None,
        transform: Transform | None = None,
        micro: str = "",
    ) -> None:
        super().__init__()
        self.settings, self.transform = settings, transform
        self._follow(order)
        if start is not None:
            self._begin(start, micro)

    def _follow(self, order: Order) -> None:
        """That order, from its beginning."""
        self.order, self._walk = order, _walk(order, self.settings)
        self._begin(cursors.cursor_at(order.plan, 0, 0), "")

    def _begin(self, start: Cursor, micro: str, taken: int = 0) -> None:
        cursors.check(start, self.order.plan, former_plans(self.order))
        self._first = Place(start.row, start.steps, self._walk.micro_of(micro))
        self.start, self._micro = start, micro
        self._taken = self._skip = taken

    def __iter__(self) -> Iterator[Any]:
        """At once, before the first element is asked for: what a loaded state leaves out is left out of this pass, even
        if it is never read, and of no other. Raises UserError under a reader that would spoil the rows."""
        check_reader()
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        taken, self._skip = self._skip, 0
        self._taken = taken
        return self._elements(number + taken * workers, workers)

    def _elements(self, first: int, step: int) -> Iterator[Any]:
        reading = _Reading(self.order, self.settings, self._walk, 0, 0)
        for piece in self._walk.every(self._first, first, step):
            out = _tensors(reading.read(piece))
            out = self.transform(out) if self.transform else out
            self._taken += 1
            yield out

    def __len__(self) -> int:
        """Elements of a pass. TypeError where there is no end."""
        return _length(self._walk.pieces(self._first))

    def state(self, batches: int) -> dict[str, Any]:
        """The state after so many elements were received from the beginning of this dataset."""
        place = self._walk.after(self._first, count("batches", batches, 0))
        state = cursors.cursor_at(self.order.plan, place.row, place.steps).to_json()
        return state | ({"micro": self._walk.written(place)} if place.micro else {})

    def resumed(self, state: Mapping[str, Any], settings: Settings | None = None) -> "TokenDataset":
        """This dataset from a state on, perhaps as another rank of another world."""
        start, micro = cursors.from_json(dict(state)), str(state.get("micro", ""))
        return TokenDataset(self.order, settings or self.settings, start, self.transform, micro)

    # For torchdata.StatefulDataLoader, which keeps one of these for each worker.
    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start.to_json() | {"micro": self._micro}, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        start = state["start"]
        self._begin(cursors.from_json(start), str(start.get("micro", "")), count("taken", state["taken"], 0))


def _length(pieces: int | None) -> int:
    if pieces is None:
        raise TypeError("this loader has no end: give max_epochs or max_steps")
    return pieces


class Loader(DataLoader[Any]):
    """A DataLoader of whole batches of one rank, or of micro-batches: dicts of tensors (see loader.row_reader), and
    `waited_seconds`, how long the batch was waited for; or what `transform` makes of them.

        for batch in loader         `on_end` (see build_loader) says what a second pass is
        next(loader)                the next batch, without a pass
        len(loader)                 batches of a pass; TypeError where there is no end
        loader.dataset              a TokenDataset of the same order, settings and transform
        loader.order.plan, loader.global_order   what decides which rows come
        loader.state_dict()         plan and place, the same on every rank: of what was received, never of what was
                                    read ahead
        loader.load_state_dict(s)   go on there, with any world size and number of workers
        loader.with_plan(plan)      this loader where it is, under a plan that adds to its own

    There is one place in a loader: two iterators of it share it. It may be pickled, and used after a fork: the copy
    goes on from the same place on its own. Its threads are no DataLoader's workers, so `num_workers` is 0.
    """

    #: Accelerate's own mark: `prepare` leaves such a loader as it is, where it would deal the rows out a second time.
    _is_accelerate_prepared = True
    #: Its mark for a loader whose state belongs into `save_state` and comes back by `load_state`.
    use_stateful_dataloader = True
    #: What it would take off the end of gathered metrics: nothing, no row is served twice.
    remainder = -1
    dataset: TokenDataset

    def __init__(
        self,
        order: Order,
        settings: Settings,
        num_workers: int = 2,
        prefetch_tokens: int = PREFETCH_TOKENS,
        transform: Transform | None = None,
        *,
        on_end: OnEnd | None = None,
        plan_is_given: bool = True,
    ) -> None:
        if transform is not None and not callable(transform):
            raise UserError(f"transform is {transform!r:.80}: it must be a function of a batch")
        if on_end not in ("stop", "again", "raise", None):
            raise UserError(f"on_end is {on_end!r}: it can be 'stop', 'again' or 'raise'")
        self._threads = count("num_workers", num_workers, 0)
        self._prefetch_tokens = count("prefetch_tokens", prefetch_tokens, 1)
        self._on_end, self._plan_is_given = on_end, plan_is_given
        super().__init__(TokenDataset(order, settings, transform=transform), batch_size=None, collate_fn=_as_it_is)
        self._accepted: list[str] = []
        self._at, self._read, self._loaded, self._said = START, False, False, False
        self._reading = self._opened()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the same place, its own threads."""
        transform = self.dataset.transform
        how = (self._threads, self._prefetch_tokens, transform, self._on_end, self._plan_is_given)
        return _unpickled, (self.order, self.settings, *how, self.state_dict())

    def _opened(self) -> _Reading:
        header, share = self.plan.header, self.settings.share
        rows = self.settings.micro_rows or -(-header.step_rows // share.world_size)
        depth = max(self._threads + 1, min(self._prefetch_tokens // (rows * header.row_tokens), AHEAD_BATCHES))
        return _Reading(self.order, self.settings, self._walk, self._threads, depth)

    def _here(self) -> _Reading:
        if self._reading.process != process():
            self._reading = self._opened()
        return self._reading

    @property
    def order(self) -> Order:
        return self.dataset.order

    @property
    def settings(self) -> Settings:
        return self.dataset.settings

    @property
    def plan(self) -> MixPlan:
        return self.order.plan

    @property
    def segments(self) -> SegmentCache:
        """The cache of blocks, with its counts."""
        return self._reading.cache

    @property
    def _walk(self) -> Walk:
        return self.dataset._walk

    # ---- iteration

    def __iter__(self) -> "Loader":  # type: ignore[override]
        again = self._on_end in ("again", None) and self._walk.steps_in_all is not None
        if self._walk.piece(self._at) is None:
            self._at_the_end(again)
        elif again and self._read:
            if self._on_end is None:
                self._say(f"a pass begins at row 0 again, though the last one was left at row {self._at.row:,}")
            self._seek(START)
        self._loaded = False
        accelerate.begin(self)
        return self

    @property
    def end_of_dataloader(self) -> bool:
        """Whether the last batch of the pass was handed out: Accelerate then makes a step of what was accumulated."""
        return self._walk.piece(self._at) is None

    def _at_the_end(self, again: bool) -> None:
        if self._on_end == "raise":
            raise UserError(
                f"this loader was read to its end, after {self._at.steps:,} batches: on_end='again' reads it again"
            )
        if again and (self._on_end == "again" or not self._loaded):
            self._seek(START)
        else:
            self._say(f"there is nothing left after {self._at.steps:,} batches, the end of this pass")

    def _say(self, what: str) -> None:
        if not self._said:
            LOG.warning("%s: on_end='stop', 'again' or 'raise' says what you want", what)
        self._said = True

    def __next__(self) -> Any:
        began = time.perf_counter()
        reading = self._here()
        piece = self._walk.piece(self._at)
        if piece is None:
            accelerate.end(self)
            raise StopIteration
        following = self._walk.following(self._at, piece)
        try:
            out: Any = _tensors(reading.ahead.get(self._at, piece))
            out["waited_seconds"] = time.perf_counter() - began
            if self.dataset.transform is not None:
                out = self.dataset.transform(out)
            reading.ahead.fill(following)
        except BaseException:
            reading.ahead.drop()  # the next call makes this batch anew
            raise
        # Nothing that can fail or be interrupted comes between this and the caller: CPython looks for signals at calls.
        self._read = True
        self._at = following
        return out

    def __len__(self) -> int:
        """Batches of a pass, from row 0. TypeError where there is no end: no max_epochs and no max_steps."""
        return _length(self._walk.pieces(START))

    def close(self) -> None:
        """Stop reading ahead. The loader may be used again."""
        if self._reading.process == process():
            self._reading.ahead.close()

    def _seek(self, place: Place) -> None:
        self._here().ahead.drop()
        self._at, self._read = place, False

    # ---- state

    def cursor(self) -> dict[str, Any]:
        """The state without the plan, for who keeps the plan beside it."""
        place = self._at
        state = cursors.cursor_at(self.plan, place.row, place.steps).to_json()
        state["accepted"] = "\n".join(self._accepted)
        if self.settings.micro_rows is not None:
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
        add to the one of the state. Raises CursorMismatch if the rows before it are not of this order;
        `accept_other_order` says why to go on all the same, and stays in the state.
        """
        cursor = cursors.from_json(dict(state) if isinstance(state, Mapping) else state)
        recorded = state.get("accepted", "")
        if not isinstance(recorded, str):
            raise UserError("the state of the loader is damaged: accepted is no text")
        accepted = recorded.splitlines()
        order, walk = self.order, self._walk
        saved: MixPlan | None = None
        if (text := state.get("plan")) is not None:
            if not isinstance(text, str):
                raise UserError("the state of the loader is damaged: plan is no text")
            saved = loads(text.encode(), "the plan in the state of the loader")
        if saved is not None and not self._plan_is_given:
            plan = renamed(saved, order.available)
            if plan != self.plan and plan.extends(self.plan):
                order = Order(plan, order.available, self.settings.cache)
                walk = _walk(order, self.settings)
        try:
            cursors.check(cursor, order.plan, former_plans(order), saved)
        except cursors.CursorMismatch:
            if not accept_other_order:
                raise
            order.plan.begin(cursor.row)
            why = " ".join(accept_other_order.encode("ascii", "backslashreplace").decode().split())[:100]
            accepted.append(f"row {cursor.row}, from {cursor.prefix[:16]}: {why}")
        place = Place(cursor.row, cursor.steps, walk.micro_of(state.get("micro", "")))
        self.close()
        if order is not self.order:
            self.dataset._follow(order)
            self._reading = self._opened()
        self._accepted = accepted[-3:]
        self._seek(place)
        self._loaded = True

    def with_plan(self, plan: MixPlan) -> "Loader":
        """This loader where it is, under a plan that adds to its own. Raises CursorMismatch if it changes the past."""
        order = Order(read_plan(plan), self.order.available, self.settings.cache)
        transform = self.dataset.transform
        other = Loader(order, self.settings, self._threads, self._prefetch_tokens, transform, on_end=self._on_end)
        other.load_state_dict(self.cursor())
        return other


def _as_it_is(batch: Any) -> Any:
    return batch


def _unpickled(
    order: Order,
    settings: Settings,
    threads: int,
    prefetch_tokens: int,
    transform: Transform | None,
    on_end: OnEnd | None,
    plan_is_given: bool,
    state: Mapping[str, Any],
) -> Loader:
    found = Loader(order, settings, threads, prefetch_tokens, transform, on_end=on_end, plan_is_given=plan_is_given)
    found.load_state_dict(state)
    return found
