"""The loader for torch: batches of one provable order, for this rank.

    loader = build_loader(url, weights={"web": 3, "code": 1}, row_tokens=4096, batch_rows=384, rank=rank,
                          world_size=world_size)
    for batch in loader: ...

`Loader` reads ahead with threads, so that there are no worker processes, sockets or shared memory to be left behind.
`TokenDataset` is the same order as a torch IterableDataset, for a DataLoader of your own.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from bamba_data.errors import UserError
from loader import cursor as cursors
from loader.cache import default_cache
from loader.cursor import Cursor
from loader.delimiters import delimiters_of
from loader.ending import steps_until
from loader.holdout import holdout_order
from loader.opened import Data, available, open_data
from loader.order import Order
from loader.plan import GROUPED_WINDOW_ROWS, WINDOW_ROWS, Batch, MixPlan, load
from loader.rows import DEFAULT_FIELDS, FIELDS, Arrays, RowReader, Share
from loader.segments import SegmentCache

PREFETCH_TOKENS = 1 << 20
AHEAD_BATCHES = 256  # at most: a future costs more than a batch of a few tokens
CACHE_BYTES = 64 << 30

Transform = Callable[[dict[str, Any]], dict[str, Any]]


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


def build_loader(
    data: Data | Sequence[Data],
    weights: Mapping[str, float | int | str] | None = None,
    row_tokens: int = 4096,
    batch_rows: int = 1,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 2,
    *,
    plan: MixPlan | Path | str | None = None,
    delimiters: str = "eos",
    bos_id: int | None = None,
    eos_id: int | None = None,
    holdout: float = 0.0005,
    packing: str = "chunk",
    window_rows: int | None = None,
    shuffle: bool = True,
    pad_rows: bool = False,
    split: str = "train",
    fields: Sequence[str] = DEFAULT_FIELDS,
    max_epochs: int | None = None,
    at_end: str = "first",
    max_steps: int | None = None,
    prefetch_tokens: int = PREFETCH_TOKENS,
    transform: Transform | None = None,
    cache: Path | str | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> "Loader":
    """This rank's rows of every batch of `batch_rows` rows.

    data         URL of a dataset or a TextSource, or several, whose sources all have different names
    weights      by source, in any unit; None takes every source by its tokens. A weight of 0 leaves one out
    delimiters   "eos", "bos", "both" or "none": around every document. Ids from the tokenizer, or `bos_id`, `eos_id`
    packing      "chunk" fills every row and cuts documents; "best-fit" cuts none that fits into a row, fills 99.6 %
    shuffle      False reads blocks and documents in the order stored, still mixed
    num_workers  threads that read ahead; 0 reads when asked. Any number gives the same batches
    plan         a MixPlan (or its file) instead of weights, row_tokens, batch_rows, seed, packing, ...
    pad_rows     all ranks get equally many rows, filled up with masked ones (row -1)
    split        "train", or "holdout": the held-out documents once, in order, not shuffled
    max_epochs   end with the batch in which the first source (`at_end="all"`: the last) has been read so many times
    """
    folder = Path(cache) if cache is not None else default_cache()
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise UserError(f"fields {unknown} are none of {FIELDS}")
    if not 0 <= rank < world_size:
        raise UserError(f"there is no rank {rank} of {world_size}")
    if at_end not in ("first", "all"):
        raise UserError(f"at_end is {at_end!r}: it can be 'first' or 'all'")
    if split not in ("train", "holdout"):
        raise UserError(f"split is {split!r}: it can be 'train' or 'holdout'")

    opened = open_data(data, folder)
    sources = available(opened)

    def made() -> MixPlan:
        if isinstance(plan, MixPlan):
            return plan
        if plan is not None:
            return load(Path(plan))
        before, after = delimiters_of(opened, delimiters, bos_id, eos_id)
        shares = weights or {name: int(blocks.tokens.sum()) for name, blocks in sources.items()}
        if unknown := sorted(set(shares) - set(sources)):
            raise UserError(f"weights name {unknown}, the data has {sorted(sources)}")
        usual = WINDOW_ROWS if packing == "chunk" else GROUPED_WINDOW_ROWS
        return MixPlan.create(
            shares,
            {name: blocks.identity for name, blocks in sources.items()},
            batch_rows,
            seed=seed,
            row_tokens=row_tokens,
            before=before,
            after=after,
            holdout_ppm=round(holdout * 1e6),
            packing=packing,
            shuffle=shuffle,
            window_rows=window_rows or usual,
        )

    order = Order(made(), sources, folder)
    settings = Settings(
        Share(rank, world_size, pad_rows), tuple(fields), folder, cache_bytes, max_epochs, at_end, max_steps
    )
    if split == "holdout":
        order, settings = holdout_order(order), replace(settings, max_epochs=1, at_end="all")
    return Loader(order, settings, num_workers, prefetch_tokens, transform)


def _reader(order: Order, settings: Settings, segments: SegmentCache) -> RowReader:
    return RowReader(order, segments, settings.share, settings.fields, settings.max_epochs)


def _segments(settings: Settings) -> SegmentCache:
    return SegmentCache(settings.cache / "segments" if settings.cache else None, settings.cache_bytes)


def _tensors(arrays: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Loader:
    """An iterator of batches: dicts of tensors (see loader.rows), and `waited_seconds`, how long the batch was waited
    for. Its state is of what was received, never of what was read ahead."""

    def __init__(
        self,
        order: Order,
        settings: Settings,
        num_workers: int = 2,
        prefetch_tokens: int = PREFETCH_TOKENS,
        transform: Transform | None = None,
    ) -> None:
        self.order, self.settings = order, settings
        self._num_workers, self._transform = num_workers, transform
        self._prefetch_tokens = prefetch_tokens
        self._cache = _segments(settings)
        self._steps_in_all = steps_until(order, settings.max_epochs, settings.at_end, settings.max_steps)
        self._accepted: list[str] = []
        self._row, self._steps = 0, 0
        self._batches: Iterator[Batch] = iter(())
        self._reader = _reader(order, settings, self._cache)
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[Batch, Future[Arrays]]] = deque()
        self._seek(0, 0)

    @property
    def plan(self) -> MixPlan:
        return self.order.plan

    @property
    def segments(self) -> SegmentCache:
        """The cache of blocks, with its counts."""
        return self._cache

    # ---- iteration

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> dict[str, Any]:
        began = time.perf_counter()
        if self._num_workers == 0:
            one = self._next_batch()
            if one is None:
                raise StopIteration
            batch = one
            future: Future[Arrays] | None = None
        else:
            self._fill()
            if not self._ahead:
                raise StopIteration
            batch, future = self._ahead.popleft()
        try:
            out = _tensors(future.result() if future else self._reader.read(batch))
            out["waited_seconds"] = time.perf_counter() - began
            out = self._transform(out) if self._transform else out
        except BaseException:
            self._seek(self._row, self._steps)  # so that the next call tries this batch again
            raise
        self._row, self._steps = batch.first_row + batch.rows, self._steps + 1
        if future:
            self._fill()
        return out

    def __len__(self) -> int:
        """Batches in all, from row 0. TypeError where there is no end: no max_epochs and no max_steps."""
        if self._steps_in_all is None:
            raise TypeError("this loader has no end: give max_epochs or max_steps")
        return self._steps_in_all

    def _next_batch(self) -> Batch | None:
        if self._steps_in_all is not None and self._planned >= self._steps_in_all:
            return None
        self._planned += 1
        return next(self._batches)

    def _fill(self) -> None:
        """Keep so many batches in the making that their tokens are `prefetch_tokens`, and at least one a thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_workers, "bamba-loader")
        share = -(-self.plan.header.step_rows // self.settings.share.world_size) * self.plan.header.row_tokens
        depth = max(self._num_workers + 1, min(self._prefetch_tokens // share, AHEAD_BATCHES))
        while len(self._ahead) < depth and (batch := self._next_batch()) is not None:
            self._ahead.append((batch, self._pool.submit(self._reader.read, batch)))

    def close(self) -> None:
        """Stop reading ahead. The loader may be used again."""
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._seek(self._row, self._steps)

    def _seek(self, row: int, steps: int) -> None:
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._row, self._steps, self._planned = row, steps, steps
        self._batches = self.plan.batches(row)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Less than 1 KiB of plain JSON, the same on every rank. Save the plan (`loader.plan.dumps()`) beside it."""
        return cursors.cursor_at(self.plan, self._row, self._steps).to_json() | {"accepted": "\n".join(self._accepted)}

    def load_state_dict(self, state: Mapping[str, Any], accept_other_order: str | None = None) -> None:
        """Go on where `state` is, with any world size and number of workers. Raises CursorMismatch if the rows before
        it are not of this order; `accept_other_order` says why to go on all the same, and stays in the state."""
        cursor = cursors.from_json(dict(state))
        recorded = state.get("accepted", "")
        if not isinstance(recorded, str):
            raise UserError("the state of the loader is damaged: accepted is no text")
        accepted = recorded.splitlines()
        try:
            cursors.check(cursor, self.plan)
        except cursors.CursorMismatch:
            if not accept_other_order:
                raise
            self.plan.begin(cursor.row)
            why = " ".join(accept_other_order.encode("ascii", "backslashreplace").decode().split())[:100]
            accepted.append(f"row {cursor.row}, from {cursor.prefix[:16]}: {why}")
        self._accepted = accepted[-3:]
        self._seek(cursor.row, cursor.steps)

    def with_plan(self, plan: MixPlan) -> "Loader":
        """This loader where it is, under a plan that adds to its own. Raises CursorMismatch if it changes the past."""
        other = Loader(
            Order(plan, self.order.available, self.settings.cache),
            self.settings,
            self._num_workers,
            self._prefetch_tokens,
            self._transform,
        )
        other.load_state_dict(self.state_dict())
        return other


class TokenDataset(IterableDataset[dict[str, Any]]):
    """The order for a DataLoader of your own: `DataLoader(dataset, batch_size=None, num_workers=n)`.

    Every element is a whole batch of this rank. Workers take batches in turn, which is the order in which a DataLoader
    asks them, so any number of them gives the same sequence. `state_dict` after k batches received: `dataset.state(k)`;
    torchdata's StatefulDataLoader keeps it by itself.
    """

    def __init__(self, order: Order, settings: Settings, start: Cursor | None = None) -> None:
        super().__init__()
        self.order, self.settings = order, settings
        self.start = start or cursors.cursor_at(order.plan, 0, 0)
        cursors.check(self.start, order.plan)
        self._steps_in_all = steps_until(order, settings.max_epochs, settings.at_end, settings.max_steps)
        self._taken, self._skip = 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader = _reader(self.order, self.settings, _segments(self.settings))
        skip, self._skip, self._taken = self._skip, 0, 0
        for count, batch in enumerate(self.order.plan.batches(self.start.row)):
            if self._steps_in_all is not None and self.start.steps + count >= self._steps_in_all:
                return
            if count % workers == number:
                self._taken += 1
                if self._taken > skip:
                    yield _tensors(reader.read(batch))

    def state(self, batches: int) -> dict[str, Any]:
        """The state after so many batches were received from the beginning of this dataset."""
        row, steps = self.start.row, self.start.steps
        for count, batch in enumerate(self.order.plan.batches(row)):
            if count == batches:
                break
            row, steps = batch.first_row + batch.rows, steps + 1
        return cursors.cursor_at(self.order.plan, row, steps).to_json()

    def resumed(self, state: Mapping[str, Any], settings: Settings | None = None) -> "TokenDataset":
        """This dataset from a state on, perhaps as another rank of another world."""
        return TokenDataset(self.order, settings or self.settings, cursors.from_json(dict(state)))

    # For torchdata.StatefulDataLoader, which keeps one of these for each worker.
    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start.to_json(), "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start = cursors.from_json(state["start"])
        cursors.check(self.start, self.order.plan)
        self._taken = self._skip = int(state["taken"])
