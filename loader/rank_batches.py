"""What a loader hands out, one after the other: this rank's part of a batch, or micro-batches of it.

Where a run is, is a Place. Every Place is found by arithmetic, so it costs nothing to go far ahead, and the sequence
cannot lose a step: what comes next follows from the place alone, never from what was planned before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bamba_data.errors import UserError

from .order.plan import MixPlan
from .order.stretches import Batch


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Place(NamedTuple):
    """Before the batch that begins at `row`, after `steps` batches; `micro` micro-batches of that batch are over."""

    row: int
    steps: int
    micro: int = 0


START = Place(0, 0)


class Piece(NamedTuple):
    """Micro-batch `micro` of `micros` of a batch."""

    batch: Batch
    micro: int
    micros: int


@dataclass(frozen=True)
class Walk:
    """The places of a plan in order, for a world size.

    Attributes:
        micro_rows: Rows of a micro-batch; None hands a rank's part of a batch out whole.
        steps_in_all: Batches from row 0 to the end; None has no end.
    """

    plan: MixPlan
    world_size: int
    micro_rows: int | None
    steps_in_all: int | None

    def micros(self, batch_rows: int) -> int:
        """Of a batch, the same for every rank: the largest part needs so many."""
        return 1 if self.micro_rows is None else ceil_div(ceil_div(batch_rows, self.world_size), self.micro_rows)

    def piece(self, place: Place) -> Piece | None:
        """What is handed out at a place; None at the end."""
        if self.steps_in_all is not None and place.steps >= self.steps_in_all:
            return None
        batch = self.plan.batch_from(place.row)
        return None if batch is None else Piece(batch, place.micro, self.micros(batch.rows))

    def following(self, place: Place, piece: Piece) -> Place:
        """The place after a piece that is handed out at `place`."""
        if piece.micro + 1 < piece.micros:
            return place._replace(micro=piece.micro + 1)
        return Place(piece.batch.first_row + piece.batch.rows, place.steps + 1)

    def after(self, place: Place, pieces: int) -> Place:
        """The place so many pieces further, or the end."""
        left = pieces + place.micro  # counted from the begin of the batch
        row, steps = place.row, place.steps
        for stretch in self.plan.stretches_from(row):
            row = max(row, stretch.first_row)
            batches = ceil_div(stretch.end - row, stretch.batch_rows)
            if self.steps_in_all is not None:
                batches = min(batches, self.steps_in_all - steps)
            micros = self.micros(stretch.batch_rows)
            whole = min(batches, left // micros)
            row, steps, left = min(row + whole * stretch.batch_rows, stretch.end), steps + whole, left - whole * micros
            if whole < batches or left == 0 or steps == self.steps_in_all:
                break
        ended = steps == self.steps_in_all
        return Place(row, steps, 0 if ended else left)

    def pieces(self, place: Place) -> int | None:
        """How many there are from a place on; None without end."""
        if self.steps_in_all is None:
            return None
        pieces, row, steps = -place.micro, place.row, place.steps
        for stretch in self.plan.stretches_from(row):
            row = max(row, stretch.first_row)
            batches = min(ceil_div(stretch.end - row, stretch.batch_rows), self.steps_in_all - steps)
            pieces += batches * self.micros(stretch.batch_rows)
            row, steps = stretch.end, steps + batches
            if steps >= self.steps_in_all:
                break
        return max(0, pieces)

    def every(self, place: Place, first: int, step: int) -> Iterator[Piece]:
        """Every `step`-th piece from the `first` one after `place` on."""
        place = self.after(place, first)
        while (piece := self.piece(place)) is not None:
            yield piece
            place = self.after(place, step)

    # ---- a place inside a batch is one of this world size and these micro-batches only

    def written(self, place: Place) -> str:
        """`Place.micro` as a state has it, with what it is counted in."""
        return f"{place.micro} of {self.micro_rows} rows, {self.world_size} ranks" if place.micro else ""

    def micro_of(self, written: object) -> int:
        """The inverse. Raises UserError where the place is none of ours."""
        if written == "":
            return 0
        micro, of, counted_in = str(written).partition(" of ")
        here = f"{self.micro_rows} rows, {self.world_size} ranks"
        if not micro.isdecimal() or not of:
            raise UserError(f"the state of the loader is damaged: micro is {written!r}")
        if counted_in != here:
            raise UserError(
                f"this state lies inside a batch, after {micro} micro-batches of {counted_in}; here of {here}: "
                "go on with those, or from a state that was saved between two batches"
            )
        return int(micro)
