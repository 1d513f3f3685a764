"""The timeline of a plan: a fold over its entries, so that one more entry costs what that entry costs.

Entries of one row are folded together, for a skip holds of the mix that begins at the same row, however they are
written down. So the timeline without the entries of the last row is kept beside the one with them.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from .plan_entries import Cap, Entry, Mix, Ramp, Skip
from .stretches import Change, Timeline, ramp

Numbered = tuple[int, Entry]  # an entry and its place in the plan, which is in the key of its lattice


class PlanTimeline(NamedTuple):
    """`settled` is made of the entries before the last row, `last` are those of the last row, `timeline` is all."""

    settled: Timeline
    last: tuple[Numbered, ...]
    timeline: Timeline

    @classmethod
    def of(cls, timeline: Timeline, entries: Sequence[Entry]) -> "PlanTimeline":
        """All `entries`, in the order of their rows, on an empty timeline."""
        folded = cls(timeline, (), timeline)
        for _, same_row in groupby(enumerate(entries), key=lambda numbered: numbered[1].row):
            folded = folded._with(folded.timeline, tuple(same_row))
        return folded

    def plus(self, number: int, entry: Entry) -> "PlanTimeline":
        """With one more entry, at the last row or after it."""
        if self.last and self.last[0][1].row == entry.row:
            return self._with(self.settled, (*self.last, (number, entry)))
        return self._with(self.timeline, ((number, entry),))

    @classmethod
    def _with(cls, settled: Timeline, last: tuple[Numbered, ...]) -> "PlanTimeline":
        row = last[0][1].row
        changes: list[Change] = []
        for number, entry in last:
            if isinstance(entry, Mix):
                changes = [Change(row, entry.weights, entry.batch_rows, ("mix", number))]
            elif isinstance(entry, Ramp):
                start = changes[0] if changes else settled.holding(row)
                changes = ramp(row, entry.rows, entry.stages, start, entry.weights, ("mix", number))
        caps = {entry.source: entry.rows for _, entry in last if isinstance(entry, Cap)}
        skips = [range(row, row + entry.rows) for _, entry in last if isinstance(entry, Skip)]
        changed = changes or caps or skips  # a note or a quarantine moves no row
        return cls(settled, last, settled.then(row, changes, caps, skips) if changed else settled)
