"""The mixture: which source a row of the global order comes from, and which of its rows. Exact at every row, without
history.

The order is cut into steps of L rows, the batch at creation. The circle has L cells; the weights cut it into arcs, one
a source. Step t puts one point into every cell, all at the same depth, and a row's source is the arc its point lies in:

    row  first_row + t L + j   is at   stride j + turn t + offset   cells, mod L

L equally spaced points give a source of weight share w either floor(L w) or ceil(L w) rows of a step. The coprime
stride deals the cells to the slots of a step out of order, so that its slots do not come sorted by source. The turn is
less than a cell, so that any L rows in sequence have a point in each cell; it is badly approximable, and so are the
angles that ranks see (rank_split.py), so that errors of successive steps cancel. All is integer arithmetic in units of
2**-44 cell; the ordinal of a row within its source is a floor sum. docs/mix.md has definitions, bounds and proofs.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError

from .continued_fraction import quotients

Rows = NDArray[np.int64]

CELL = 2**44
#: 0.29709 of a cell a step. Found by search, for its partial quotients (none above 3 until 2.4 million steps) and for
#: those of (turn + m) / W, with the best integer m, at small world sizes W. Never to be changed: it is in every order.
TURN = 5226397160451
MAX_STEP_ROWS = 2**18
MAX_ROW = 2**62
BLOCK_STEPS = 64  # counts are floor sums at every 64th step, and counted up from there


@dataclass(frozen=True)
class Lattice:
    """The order of rows from `first_row` on: a rank-1 lattice (Korobov 1959), shifted from step to step by a rotation.

    Attributes:
        weights: positive integers by source number; the least share is 2**-44 of a row a step.
        step_rows: L, rows of a step and cells of the circle.
        stride: cells from one slot of a step to the next, coprime to L. `Lattice.create` chooses it.
        offset: where step 0 begins, in 2**-44 cell. `Lattice.create` draws it.
        first_row: global row index.
        before: the rows of each source among [0, first_row): ordinals go on from there.
    """

    weights: tuple[int, ...]
    step_rows: int
    stride: int
    offset: int
    first_row: int
    before: tuple[int, ...]

    @classmethod
    def create(
        cls, weights: Sequence[int], step_rows: int, key: int, first_row: int = 0, before: Sequence[int] | None = None
    ) -> "Lattice":
        """A lattice whose offset `key` draws, of 64 bits (derive_key).

        Raises:
            UserError: `step_rows` or a weight is out of range.
        """
        if not 1 <= step_rows <= MAX_STEP_ROWS:
            raise UserError(f"{step_rows:,} rows a step: between 1 and {MAX_STEP_ROWS:,} are possible")
        offset = key * step_rows * CELL >> 64
        return cls(
            tuple(weights), step_rows, _stride(step_rows), offset, first_row, tuple(before or (0,) * len(weights))
        )

    def __post_init__(self) -> None:
        if not self.weights or any(weight <= 0 for weight in self.weights):
            raise UserError(f"weights {self.weights} must be positive: leave out a source that is to have no rows")
        if any(low == high for low, high in pairwise(self._bounds)):
            raise UserError(f"weights {self.weights}: one is below 2**-44 of a row a step")
        if len(self.before) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights but rows before of {len(self.before)} sources")
        if math.gcd(self.stride, self.step_rows) != 1 or not 0 <= self.offset < self.step_rows * CELL:
            raise ValueError(f"stride {self.stride} or offset {self.offset} do not fit {self.step_rows:,} rows a step")

    def sources(self, rows: NDArray[np.integer]) -> Rows:
        """The source number of every row, int64 of the shape of `rows`: in [first_row, 2**62), in any order.

        Raises:
            IndexError: a row lies outside.
            TypeError: `rows` are not integers; a float would lose rows from 2**53 on.
        """
        steps, slots = self._split(rows)
        distinct, which = np.unique(steps, return_inverse=True)
        starts = np.array([self._start(step) for step in distinct.tolist()], np.int64)
        return self._sources_at(starts[which.reshape(steps.shape)] + self._cells[slots])

    def ordinals(self, rows: NDArray[np.integer]) -> Rows:
        """For every row the number of earlier rows of its source, those in `before` included. See `sources`."""
        steps, slots = self._split(rows)
        ordinals = np.empty_like(steps)
        for step in np.unique(steps).tolist():
            here = steps == step
            ordinals[here] = _step(self, step)[1][slots[here]]
        return ordinals

    def counts(self, row: int) -> Rows:
        """The rows of each source among [0, row), row >= first_row."""
        step, slot = divmod(self._offset_of(row), self.step_rows)
        counts = _counts(self, step)
        return counts + np.bincount(_step(self, step)[0][:slot], minlength=counts.size)

    def row_of(self, source: int, ordinal: int) -> int:
        """The row whose source and ordinal these are: the inverse of `sources` and `ordinals`.

        By bisection over steps, each probe two floor sums: some 60 probes for any row below 2**62. Raises IndexError
        for a row before the lattice or beyond 2**62.
        """
        if ordinal < self.before[source]:
            raise IndexError(f"row {ordinal:,} of source {source} comes before row {self.first_row:,}")
        step = bisect_right(range(MAX_ROW // self.step_rows), ordinal, key=lambda step: self._count(source, step)) - 1
        sources, ordinals = _step(self, step)
        slots = np.flatnonzero((sources == source) & (ordinals == ordinal))
        if not slots.size:
            raise IndexError(f"row {ordinal:,} of source {source} comes beyond row 2**62")
        return self.first_row + step * self.step_rows + int(slots[0])

    def start_cell(self, step: int) -> int:
        """The cell of the first slot of a step. It counts on when the circle is full: never mod L."""
        return (TURN * step + self.offset) // CELL

    @cached_property
    def _bounds(self) -> list[int]:
        """Where the arcs begin, and the end of the last, in 2**-44 cell."""
        total, size = sum(self.weights), self.step_rows * CELL
        return [size * part // total for part in accumulate(self.weights, initial=0)]

    @cached_property
    def _inner_bounds(self) -> Rows:
        return np.array(self._bounds[1:-1], np.int64)

    @cached_property
    def _cells(self) -> Rows:
        """By slot, where its point would be at turn 0 and offset 0."""
        return np.arange(self.step_rows) * self.stride % self.step_rows * CELL

    def _start(self, step: int) -> int:
        return (TURN * step + self.offset) % (self.step_rows * CELL)

    def _sources_at(self, places: Rows) -> Rows:
        places = np.where(places < self._bounds[-1], places, places - self._bounds[-1])
        return np.searchsorted(self._inner_bounds, places, side="right").astype(np.int64)

    def _offset_of(self, row: int) -> int:
        if not self.first_row <= row < MAX_ROW:
            raise IndexError(f"row {row:,} does not lie in [{self.first_row:,}, 2**62)")
        return row - self.first_row

    def _split(self, rows: NDArray[np.integer]) -> tuple[Rows, Rows]:
        if not np.issubdtype(rows.dtype, np.integer):
            raise TypeError(f"rows must be integers, not {rows.dtype}")
        if rows.size:
            self._offset_of(int(rows.min()))
            self._offset_of(int(rows.max()))
        steps, slots = np.divmod(rows.astype(np.int64) - self.first_row, self.step_rows)
        return steps, slots

    def _count(self, source: int, step: int) -> int:
        """The rows of one source before a step."""
        low, high = _points_below(self, self._bounds[source : source + 2], step)
        return self.before[source] + high - low


@lru_cache(maxsize=64)
def _step(lattice: Lattice, step: int) -> tuple[Rows, Rows]:
    """Source and ordinal of every slot of a step."""
    sources = lattice._sources_at(lattice._start(step) + lattice._cells)
    order = np.argsort(sources, kind="stable")
    in_order = sources[order]
    counts = _counts(lattice, step)
    firsts = np.searchsorted(in_order, np.arange(counts.size))
    ordinals = np.empty_like(sources)
    ordinals[order] = np.arange(sources.size) + (counts - firsts)[in_order]
    return sources, ordinals


def _counts(lattice: Lattice, step: int) -> Rows:
    """The rows of each source before a step."""
    first = step - step % BLOCK_STEPS
    below, bounds = _block(lattice, first), np.array(lattice._bounds, np.int64)
    depths = np.array([lattice._start(past) % CELL for past in range(first, step)], np.int64)
    below = below + (step - first) * (bounds // CELL) + np.sum(depths[:, None] < bounds % CELL, axis=0)
    counts: Rows = np.diff(below) + np.array(lattice.before, np.int64)
    return counts


@lru_cache(maxsize=64)
def _block(lattice: Lattice, step: int) -> Rows:
    return np.array(_points_below(lattice, lattice._bounds, step), np.int64)


def _points_below(lattice: Lattice, bounds: Sequence[int], steps: int) -> list[int]:
    """For every bound the points of steps 0 to `steps` - 1 at places below it.

    A step has a point below in each whole cell below, and one in the cell of the bound if it is less deep than the
    bound: (TURN t + offset) mod CELL < depth, a difference of two floors, to be summed over t.
    """
    offset = lattice.offset % CELL
    turns = floor_sum(steps, CELL, TURN, offset)
    return [
        steps * (bound // CELL) + turns - floor_sum(steps, CELL, TURN, offset - bound % CELL + CELL) + steps
        for bound in bounds
    ]


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """The sum over i in [0, n) of (a i + b) // m, for a, b >= 0 and m > 0, in O(log) steps of Euclid's algorithm.

    Counts lattice points under a line, with the axes exchanged at every step (Graham, Knuth & Patashnik, "Concrete
    Mathematics", 3.5; as in the AtCoder library).
    """
    total = 0
    while True:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        if top < m:
            return total
        (n, b), m, a = divmod(top, m), a, m


@lru_cache(maxsize=64)
def _stride(step_rows: int) -> int:
    """The stride that spreads the rows of a step most evenly over its slots, for all ranks together and for each of W.

    A rank that has every W-th cell of a step, one after the other, has them in the slots that are the multiples of
    W / stride mod L; so the partial quotients of that, over its L / W rows, are summed for the world sizes that are
    common or divide L.
    """
    middle = step_rows * 382 // 1000  # by the golden section: the best for W = 1 lie there
    strides = range(max(1, middle - 512), max(1, min(step_rows // 2, middle + 512)) + 1)
    worlds = [w for w in range(1, 17) if w <= step_rows and (w in (1, 2, 3, 4, 8) or step_rows % w == 0)]

    def unevenness(stride: int) -> int:
        inverse = pow(stride, -1, step_rows)
        return sum(sum(quotients(inverse * w, step_rows, step_rows // w)) for w in worlds)

    return min((stride for stride in strides if math.gcd(stride, step_rows) == 1), key=unevenness)
