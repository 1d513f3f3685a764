"""The order as a torch map-style Dataset: `rows[g]` is global row g, whoever else reads it and in whatever turn.

    rows = build_loader(url, order, Reading(max_epochs=1)).rows
    rows[1_000_000]["input_ids"]                                # [T]; what the loader gives for that row
    rows[7 * 384 : 8 * 384]["labels"]                           # [384, T]; batch 7
    DataLoader(rows, batch_size=8, sampler=range(512, 1024), num_workers=2)

To look a row up, to serve it again, or for a sampler of your own. Every place follows by arithmetic, so no row costs
more for lying far ahead. A row costs the blocks that it is cut from, one or two with `packing="chunk"`: the first of a
block fetches, verifies and orders all of its 2**18 tokens, those that follow copy their own from the cache. Rows of one
window share blocks; rows drawn from everywhere do not, and each pays for a whole block as long as the cache is cold.
Ask for many at once: warm, a row of 1,024 tokens takes 35 µs in a slice of 64 and 360 alone (docs/loading.md).
"""

import operator
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch.utils.data import Dataset

from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError

from .global_order import Order
from .rank_batches import START, Walk
from .read_ahead import process
from .reading import Reading, Share
from .row_reader import RowReader
from .stop import steps_until
from .token_dataset import length, tensors


class NoSuchRow(UserError, IndexError):
    """A row number lies before the first row or behind the last. An IndexError too: it ends `for row in rows`."""


class RowDataset(Dataset[dict[str, Any]]):
    """Rows of an order by their global number, for any rank: in each the arrays of `reading.fields`, without the
    dimension of rows.

    Args:
        order: Which row comes at which place.
        reading: `fields`, `cache` and the end count here. Which rank, how many threads and micro-batches do not.
    """

    def __init__(self, order: Order, reading: Reading) -> None:
        super().__init__()
        self.order, self.reading = order, reading
        self._reader: tuple[int, RowReader] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: its own reader."""
        return RowDataset, (self.order, self.reading)

    @cached_property
    def _end(self) -> int | None:
        """The row behind the last; None where there is no end."""
        reading = self.reading
        steps = steps_until(self.order, reading.max_epochs, reading.at_end, reading.max_steps)
        return None if steps is None else Walk(self.order.plan, 1, None, steps).after(START, steps).row

    def __len__(self) -> int:
        """Numbers of rows up to the end, those that the plan skips included. TypeError where there is no end."""
        return length(self._end)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> dict[str, Any]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any]:
        """Row `index`, or for a slice its rows as a batch: the arrays have them in their first dimension.

        Past `max_epochs` the last batch is filled up: such a row is masked and has number -1, as in the loader.

        Raises:
            NoSuchRow: The number is negative or too large.
            UserError: The plan skips the row: it was never served.
        """
        if not isinstance(index, slice):
            return self.__getitems__([index])[0]
        # Not slice.indices: it clips what lies outside, and a batch with fewer rows than asked for would say nothing.
        start, step = index.start or 0, 1 if index.step is None else index.step
        if step < 1:
            raise UserError(f"rows {index}: a slice goes from the first row to the last, in steps of 1 or more")
        stop = len(self) if index.stop is None else index.stop
        rows = range(operator.index(start), operator.index(stop), operator.index(step))
        for row in (start, stop):
            if row < 0:
                raise NoSuchRow(f"there is no row {row:,}: rows count from 0, and none from the end")
        return tensors(self._rows_here().read_rows([self._checked(row) for row in rows]))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What torch's DataLoader asks for: the rows of a batch at once, which costs less than one by one."""
        batch = tensors(self._rows_here().read_rows([self._checked(index) for index in indices]))
        return [_row_of(batch, place, self.order.plan.header.row_tokens) for place in range(len(indices))]

    def _rows_here(self) -> RowReader:
        """The reader of this process: threads, locks and connections do not survive a fork."""
        if self._reader is None or self._reader[0] != process():
            self._reader = process(), RowReader.of(self.order, self.reading, Share(0, 1))
        return self._reader[1]

    def _checked(self, index: int) -> int:
        """`index` as an int, if it is the number of a row that is served."""
        row, plan = operator.index(index), self.order.plan
        end = plan.stretches[-1].end if self._end is None else self._end
        if not 0 <= row < end:
            raise NoSuchRow(f"there is no row {row:,}: rows count from 0, and the last is {end - 1:,}")
        if plan.batch_of(row) is None:  # no NoSuchRow: an IndexError would end a `for` over the rows in silence
            raise UserError(f"row {row:,} is skipped by the plan: it is never served. Leave it out of the sampler")
        return row


def _row_of(batch: dict[str, Any], place: int, row_tokens: int) -> dict[str, Any]:
    """One row of a batch. `cu_seqlens` is of the rows end to end: of one row it is what lies in it, from 0 on."""
    row = {name: values[place] for name, values in batch.items() if name != "cu_seqlens"}
    if (bounds := batch.get("cu_seqlens")) is not None:
        first = place * row_tokens
        low, high = torch.searchsorted(bounds, torch.tensor([first, first + row_tokens], dtype=bounds.dtype)).tolist()
        row["cu_seqlens"] = bounds[low : high + 1] - first
    return row
