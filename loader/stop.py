"""Where a run ends: the number of its batches, known before the first."""

from bamba_data.errors import UserError

from .global_order import Order
from .order.stretches import Stretch


def steps_until(order: Order, max_epochs: int | None, at_end: str, max_steps: int | None) -> int | None:
    """Batches from row 0 on; None if there is no end.

    Args:
        order: Which row comes at which place.
        max_epochs: End with the batch in which a source has the last row of so many epochs; None does not.
        at_end: Which source: the "first" that has, or the last of "all".
        max_steps: So many batches at most; None sets no limit.

    Raises:
        UserError: The epochs end beyond row 2**62.
    """
    if max_epochs is None:
        return max_steps
    last_rows = {name: order.source(name).stream.first_row(max_epochs) for name in order.plan.sources}
    steps = 0
    for stretch in order.plan.stretches:
        ends = [_step_of(stretch, number, last_rows[name]) for number, name in enumerate(stretch.sources)]
        reached = min(ends) if at_end == "first" else max(ends)
        batches = -(-(stretch.end - stretch.first_row) // stretch.batch_rows)
        if reached < batches:
            steps += reached + 1  # that batch is the last, and whole: rows of other epochs in it are masked
            break
        steps += batches
    return steps if max_steps is None else min(steps, max_steps)


def _step_of(stretch: Stretch, number: int, rows: int) -> int:
    """The batch of a stretch in which a source has the last of its first `rows` rows; before it, -1."""
    before = int(stretch.lattice.counts(stretch.first_row)[number])
    if rows <= before:
        return -1
    try:
        row = stretch.lattice.row_of(number, rows - 1)
    except IndexError:
        raise UserError("so many max_epochs end beyond row 2**62: give fewer, or none") from None
    return (row - stretch.first_row) // stretch.batch_rows
