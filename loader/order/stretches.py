"""The rows that the entries of a plan make: which sources, in which shares, in batches of how many, from row to row.

A timeline is a value. To add an entry costs what that entry costs, however long the plan is: `Timeline.then` shares all
that lies before the entry's row with the timeline that it adds to.

    stretch  rows in sequence under one mix, in batches of one size
    mixes    stretches, one after the other without a gap from row 0 on
    served   the same without the rows that are skipped
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm
from typing import NamedTuple

from bamba_data.errors import UserError

from .mixture import MAX_ROW, Lattice
from .permutation import derive_key


class Batch(NamedTuple):
    """Rows [first_row, first_row + rows) of one mix."""

    first_row: int
    rows: int
    stretch: "Stretch"


@dataclass(frozen=True)
class Stretch:
    """Rows in sequence that are served, in batches of equal size, under one mix. `end` is exclusive."""

    first_row: int
    end: int
    batch_rows: int
    sources: tuple[str, ...]
    lattice: Lattice

    def batch(self, row: int) -> Batch:
        """The batch that begins at `row`; the last of a stretch may be shorter."""
        return Batch(row, min(self.batch_rows, self.end - row), self)

    def batch_start(self, row: int) -> int:
        """Where the batch begins that has `row`."""
        return row - (row - self.first_row) % self.batch_rows

    @property
    def batches(self) -> int:
        return -(-(self.end - self.first_row) // self.batch_rows)


class Change(NamedTuple):
    """From `row` on these weights. `key` are the parts of `derive_key`, beside the seed, that choose the lattice."""

    row: int
    weights: Mapping[str, int]
    batch_rows: int
    key: tuple[int | str, ...]


@dataclass(frozen=True)
class Timeline:
    """What all entries up to some row make of the rows.

    `mixes` reach from row 0 to MAX_ROW without a gap; `served` are the same without the rows that are skipped. `before`
    has, for each mix, how many rows of every source come before it. `schedule` are the changes that hold from the last
    entry's row on. `caps` are the rows that a source may have in all, and `ended` the global row from which on a source
    is left out because it has had them.
    """

    seed: int
    step_rows: int
    mixes: tuple[Stretch, ...] = ()
    before: tuple[Mapping[str, int], ...] = ()
    served: tuple[Stretch, ...] = ()
    schedule: tuple[Change, ...] = ()
    caps: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)

    def then(self, row: int, changes: Sequence[Change], caps: Mapping[str, int], skips: Sequence[range]) -> "Timeline":
        """With what entries at `row` say, which is not before the row of any earlier entry.

        Args:
            row: the global row from which all of it holds.
            changes: in the order of their rows; they replace the schedule. None leaves it as it is.
            caps: the most rows of a source, by name.
            skips: global rows that are not served.

        Raises:
            UserError: `row` or a skip begins or ends inside a batch or in rows that are skipped, or no source is left.
        """
        timeline = self
        if changes or caps:
            timeline = timeline._until(row)
            if caps:
                ended = {name: end for name, end in timeline.ended.items() if name not in caps}
                timeline = replace(timeline, caps={**timeline.caps, **caps}, ended=ended)
            timeline = timeline._scheduled(changes or self._schedule_from(row))
        for skip in skips:
            timeline = timeline._without(skip)
        return timeline

    def holding(self, row: int) -> Change:
        """The change that holds at a row, which is not before the last entry's."""
        return [change for change in self.schedule if change.row <= row][-1]

    def _schedule_from(self, row: int) -> list[Change]:
        return [self.holding(row)._replace(row=row), *(change for change in self.schedule if change.row > row)]

    def _until(self, row: int) -> "Timeline":
        """Nothing from `row` on."""
        ended = {name: end for name, end in self.ended.items() if end < row}
        if not self.mixes or row == 0:
            return replace(self, mixes=(), before=(), served=(), ended=ended)
        self._begins(row, "mix")
        mixes, served = _ended(self.mixes, row), _ended(self.served, row)
        return replace(self, mixes=mixes, before=self.before[: len(mixes)], served=served, ended=ended)

    def _scheduled(self, changes: Sequence[Change]) -> "Timeline":
        """These changes, which come in the order of their rows, from where this timeline ends."""
        mixes, before, served, ended = list(self.mixes), list(self.before), list(self.served), dict(self.ended)
        for change, following in zip(changes, [*(change.row for change in changes[1:]), MAX_ROW], strict=True):
            row, part = change.row, 0  # a change falls into parts where sources reach their caps
            while row < following:
                counts = _counts(mixes, before, row)
                names = tuple(sorted(set(change.weights) - set(ended)))
                if not names:
                    raise UserError(
                        f"from row {row:,} on no source is left: {', '.join(sorted(change.weights))} was read as often "
                        "as the plan allows it. Allow more epochs of one, or add a mix of others there"
                    )
                weights = tuple(change.weights[name] for name in names)
                if mixes and (mixes[-1].sources, mixes[-1].lattice.weights) == (names, weights):
                    lattice = mixes[-1].lattice  # only the batch size changed: the same order is cut anew
                else:
                    key = derive_key(self.seed, *change.key, *([part] if part else []))
                    lattice = Lattice.create(weights, self.step_rows, key, row, [counts.get(name, 0) for name in names])
                stops = {
                    name: _stop(lattice, number, self.caps[name], row, change.batch_rows)
                    for number, name in enumerate(names)
                    if name in self.caps
                }
                end = min([following, *stops.values()])
                ended |= {name: end for name, stop in stops.items() if stop <= end < following}
                if end > row:
                    mixes.append(Stretch(row, end, change.batch_rows, names, lattice))
                    before.append(counts)
                    served.append(mixes[-1])
                row, part = end, part + 1
        return replace(
            self, mixes=tuple(mixes), before=tuple(before), served=tuple(served), schedule=tuple(changes), ended=ended
        )

    def _without(self, skip: range) -> "Timeline":
        if skip.stop >= MAX_ROW:
            raise UserError(f"the skip at row {skip.start:,} ends at row {skip.stop:,}: rows end at 2**62")
        number = self._begins(skip.start, "skip")
        stretch = self.served[number]
        if skip.stop > stretch.end:
            raise UserError(f"the mix at row {stretch.end:,} lies in rows that are skipped: skip up to it, then again")
        _on_grid(stretch, "end of the skip", skip.stop)
        around = (replace(stretch, end=skip.start), replace(stretch, first_row=skip.stop))
        served = tuple(part for part in around if part.first_row < part.end)
        return replace(self, served=(*self.served[:number], *served, *self.served[number + 1 :]))

    def _begins(self, row: int, what: str) -> int:
        """The number of the stretch in which a batch begins at `row`. Raises UserError where none does."""
        number = bisect_right(self.served, row, key=_first_row) - 1
        if number < 0 or row >= self.served[number].end:
            raise UserError(f"the {what} at row {row:,} lies in rows that are skipped")
        _on_grid(self.served[number], what, row)
        return number

    def counts(self, row: int) -> Mapping[str, int]:
        """How many rows of every source lie before `row`, skipped ones included."""
        number = bisect_right(self.mixes, max(0, row - 1), key=_first_row)
        return _counts(self.mixes[:number], self.before[:number], row)


def _first_row(stretch: Stretch) -> int:
    return stretch.first_row


def _counts(mixes: Sequence[Stretch], before: Sequence[Mapping[str, int]], row: int) -> dict[str, int]:
    if not mixes:
        return {}
    counts = mixes[-1].lattice.counts(min(row, mixes[-1].end, MAX_ROW - 1)).tolist()
    return {**before[-1], **dict(zip(mixes[-1].sources, counts, strict=True))}


def _ended(stretches: Sequence[Stretch], row: int) -> tuple[Stretch, ...]:
    """What lies before `row`."""
    number = bisect_right(stretches, row - 1, key=_first_row)
    begun = stretches[:number]
    return (*begun[:-1], replace(begun[-1], end=min(begun[-1].end, row))) if begun else ()


def _stop(lattice: Lattice, source: int, cap: int, first_row: int, batch_rows: int) -> int:
    """Where the batch begins that would have row number `cap` of a source, of batches from `first_row` on."""
    if lattice.before[source] >= cap or int(lattice.counts(first_row)[source]) >= cap:
        return first_row
    try:
        row = lattice.row_of(source, cap)
    except IndexError:
        return MAX_ROW
    return row - (row - first_row) % batch_rows


def _on_grid(stretch: Stretch, what: str, row: int) -> None:
    if (start := stretch.batch_start(row)) != row:
        raise UserError(
            f"the {what} at row {row:,} lies inside a batch: batches of {stretch.batch_rows:,} begin at rows "
            f"{start:,} and {start + stretch.batch_rows:,}"
        )


def ramp(
    row: int, rows: int, stages: int, before: Change, weights: Mapping[str, int], key: tuple[int | str, ...]
) -> list[Change]:
    """From the shares of `before` to those of `weights` over `rows` rows, in a straight line.

    Each of the `stages` has the shares of its middle, and begins where a batch does. All is exact: fractions, then the
    smallest whole weights in their proportion, so that no host rounds otherwise.
    """
    batch_rows = before.batch_rows
    old, new = _shares(before.weights), _shares(weights)
    begins = [row + round(Fraction(rows * stage, stages * batch_rows)) * batch_rows for stage in range(stages + 1)]
    changes = []
    for stage, (begin, end) in enumerate(pairwise(begins)):
        done = Fraction(2 * stage + 1, 2 * stages)
        mixed = {name: old.get(name, 0) * (1 - done) + new.get(name, 0) * done for name in {*old, *new}}
        if begin < end:
            changes.append(Change(begin, whole(mixed), batch_rows, (*key, "stage", stage)))
    return [*changes, Change(begins[-1], dict(weights), batch_rows, key)]


def _shares(weights: Mapping[str, int]) -> dict[str, Fraction]:
    return {name: Fraction(weight, sum(weights.values())) for name, weight in weights.items()}


def whole(weights: Mapping[str, Fraction]) -> dict[str, int]:
    """The smallest whole numbers in the proportion of these, without those that are 0."""
    positive = {name: value for name, value in weights.items() if value}
    scale = lcm(*(value.denominator for value in positive.values()))
    scaled = {name: int(value * scale) for name, value in positive.items()}
    divisor = gcd(*scaled.values())
    return {name: value // divisor for name, value in scaled.items()}
