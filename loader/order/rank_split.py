"""Which rows of a batch a rank computes: floor(B/W) or ceil(B/W) of B, by a rule that keeps every rank's mix even.

Any rule gives the same batches, whatever the world size W; this one also gives every rank the sources in their shares.
Dealing a step's cells round robin does that, for each rank gets equally spaced points of the circle, but the same
cells in every step; so the deal turns from step to step, at an angle whose multiples are even for this W
(`cell_rotation`).

That works for whole steps, and for parts of them if W divides both the step and the batch. Any other batch is dealt in
the order of its rows, and the deal turns from batch to batch as a trial over many batches finds best (`row_rotation`).
docs/mix.md has the bounds of each case; keep to the first two.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from .continued_fraction import quotients
from .mixture import CELL, TURN, Lattice, Rows

HORIZON_STEPS = 2**22  # to which the angle of a world size is chosen to be even
CANDIDATES = 64
TRIAL_ROWS = 2**12  # of one rank
TRIAL_BATCHES = 2**16
TRIAL_ARCS = 13  # a prime, so that no usual spacing of points is even against it by accident


def rows_of_rank(first_row: int, batch_rows: int, rank: int, world_size: int, lattice: Lattice | None = None) -> Rows:
    """The rows of the batch [first_row, first_row + batch_rows) that a rank computes.

    Args:
        first_row: global row index.
        batch_rows: of all ranks together.
        rank: 0 <= rank < world_size.
        world_size: any; more ranks than rows leaves some without.
        lattice: the one that all of the batch lies in, None if it lies in several.

    Returns:
        int64, ascending, perhaps none. Together the ranks' rows are exactly the batch.

    Raises:
        ValueError: there is no such rank, or the batch begins before its lattice.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"there is no rank {rank} among {world_size}")
    return first_row + np.flatnonzero(ranks_of_rows(first_row, batch_rows, world_size, lattice) == rank)


def ranks_of_rows(first_row: int, batch_rows: int, world_size: int, lattice: Lattice | None = None) -> Rows:
    """The rank of every row of the batch, in order: int64 [batch_rows]. Arguments as of `rows_of_rank`."""
    rows = np.arange(first_row, first_row + batch_rows)
    if lattice is None:  # skipped rows or a new mix inside: no one circle to deal
        return rows % world_size
    if first_row < lattice.first_row:
        raise ValueError(f"the batch at row {first_row:,} begins before its lattice, at row {lattice.first_row:,}")
    since, step_rows = first_row - lattice.first_row, lattice.step_rows
    if step_rows % world_size == 0 and batch_rows % world_size == 0:
        return _deal_steps(rows - lattice.first_row, world_size, lattice)
    if batch_rows % step_rows == 0 and since % step_rows == 0:
        return _deal_batch(since // batch_rows, batch_rows // step_rows, world_size, lattice)
    turned = since // batch_rows * row_rotation(world_size, batch_rows, step_rows, lattice.stride)
    return (np.arange(batch_rows) - turned % world_size) % world_size


def _deal_steps(rows: Rows, world_size: int, lattice: Lattice) -> Rows:
    """The deal turns from step to step. Within a batch it may do so only after a multiple of W rows of the batch."""
    steps = (rows - rows[0] % world_size) // lattice.step_rows
    dealt: Rows = rows % lattice.step_rows * lattice.stride - steps * cell_rotation(world_size, 1)
    return dealt % world_size


def _deal_batch(batch: int, steps: int, world_size: int, lattice: Lattice) -> Rows:
    """The deal turns from batch to batch, and goes on round the circle through the steps of one."""
    starts = [lattice.start_cell(batch * steps + step) for step in range(steps)]
    slots = np.arange(lattice.step_rows) * lattice.stride
    cells = [
        (slots + start % lattice.step_rows) % lattice.step_rows + step * lattice.step_rows
        for step, start in enumerate(starts)
    ]
    return (np.concatenate(cells) - (starts[0] + batch * cell_rotation(world_size, steps)) % world_size) % world_size


@lru_cache(maxsize=1024)
def cell_rotation(world_size: int, steps: int) -> int:
    """By how many cells, beside those of TURN, the deal turns in a batch of that many steps: in [0, W).

    A rank sees each source's arc at multiples of the angle (steps TURN + turn) / W. Of all turns, or of 64 over the
    range, the one whose angle has the least sum of squared partial quotients: that predicts measured deviations best.
    """

    def unevenness(turn: int) -> int:
        return sum(a * a for a in quotients(turn * CELL + steps * TURN, world_size * CELL, HORIZON_STEPS))

    return min(_candidates(world_size), key=unevenness)


@lru_cache(maxsize=1024)
def row_rotation(world_size: int, batch_rows: int, step_rows: int, stride: int) -> int:
    """By how many rows the deal of a batch that is no whole number of steps turns from batch to batch: in [0, W).

    The turn whose first rows of rank 0, some thousands, stray least from a thirteenth in each thirteenth of the circle,
    over any run of them. Counted in integers, because all ranks must find the same.
    """
    batches = np.arange(min(-(-TRIAL_ROWS * world_size // batch_rows), TRIAL_BATCHES))

    def unevenness(turn: int) -> int:
        places = (batches * turn % world_size)[:, None] + np.arange(0, batch_rows, world_size)
        rows = (batches[:, None] * batch_rows + places)[places < batch_rows]
        steps, slots = np.divmod(rows, step_rows)
        points = (slots * stride % step_rows * CELL + steps * TURN) % (step_rows * CELL)
        arcs = points // (step_rows * CELL // TRIAL_ARCS)
        had = np.cumsum(TRIAL_ARCS * (arcs[:, None] == np.arange(TRIAL_ARCS)) - 1, axis=0)
        return int(np.ptp(had, axis=0).max(initial=0)) if rows.size else 0

    return min(_candidates(world_size), key=unevenness)


def _candidates(world_size: int) -> Iterable[int]:
    return range(world_size) if world_size <= CANDIDATES else [i * world_size // CANDIDATES for i in range(CANDIDATES)]
