"""Back to before a loss spike: which rows are left out then, and whether there may be one more.

As in the training of PaLM (arXiv 2204.02311, section 5.1): go on from a checkpoint before the spike, without the rows
that came with it. There the same rows did no harm elsewhere: a spike is certain rows meeting a certain state.
"""

from collections import deque
from dataclasses import dataclass

from .anomaly import StepRange
from .config import Guard
from .data.protocol import Feed


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows [first_row, end_row) of the global order, and why they are not trained on."""

    first_row: int
    end_row: int
    why: str


class Rewinds:
    """`count` is of the whole run, its restarts included."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.count = 0
        # A spike is seen one step late (its numbers are read then), and its steps must all be there, and one before.
        self._end_rows: deque[tuple[int, int]] = deque(maxlen=guard.spike_steps + 4)
        self._left_out: list[LeftOut] = []

    def note_step(self, step: int, end_row: int) -> None:
        """`end_row`: the first row of the order behind those of `step`."""
        self._end_rows.append((step, end_row))

    def rows_of(self, spike: StepRange) -> LeftOut | None:
        """What a rewind would leave out; None where no more are allowed, or the spike began before this process."""
        end_rows = dict(self._end_rows)
        if self.count >= self.guard.max_rewinds or spike.first - 1 not in end_rows:
            return None
        why = f"loss spike in steps {spike.first} to {spike.last}"
        return LeftOut(end_rows[spike.first - 1], end_rows[spike.last], why)

    def leave_out(self, rows: LeftOut, feed: Feed) -> None:
        """After the run went back: `feed` skips the rows of this spike, and again those of earlier ones, since the
        checkpoint may be older than that decision."""
        self._left_out.append(rows)
        for earlier in self._left_out:
            if earlier.first_row >= feed.row:
                feed.skip(earlier.first_row, earlier.end_row - earlier.first_row, earlier.why)
