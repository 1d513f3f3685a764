"""The served order of a dataset, as the measures of quality take it: the blocks that batches come from, and the places
of an epoch's rows. Found by arithmetic; no token is read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..global_order import Order
from ..order.epochs import Stream
from .locality import Locality, locality

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class ServedRows:
    """Of one source, int64 [rows], for every row that is served: the number of its batch, the block it begins in."""

    batches: Longs
    blocks: Longs

    def locality(self, block_rows: Longs) -> Locality:
        """By block; `block_rows` as of `rows_by_block`."""
        return locality(self.batches, self.blocks, block_rows)

    def locality_by(self, group_of_block: NDArray[np.integer], block_rows: Longs) -> Locality:
        """By groups of blocks, as files are: `group_of_block` has a number a block."""
        groups = np.unique(group_of_block, return_inverse=True)[1]
        return locality(self.batches, groups[self.blocks], np.bincount(groups, block_rows).astype(np.int64))


def served(order: Order, batches: int, first_row: int = 0) -> dict[str, ServedRows]:
    """By source, the first `batches` batches from the one that begins at `first_row` on."""
    parts_of: dict[str, list[tuple[Longs, Longs]]] = {name: [] for name in order.plan.sources}
    for number, names, sources, ordinals in _rows(order, batches, first_row):
        for index, name in enumerate(names):
            own = ordinals[sources == index]
            if own.size:
                stream = order.source(name).stream
                parts_of[name].append((np.full(own.size, number), blocks_of(stream, own)))
    nothing = np.array([], np.int64)
    return {
        name: ServedRows(*(np.concatenate([part[n] for part in parts] or [nothing]) for n in (0, 1)))
        for name, parts in parts_of.items()
    }


def _rows(order: Order, batches: int, first_row: int) -> Iterator[tuple[int, tuple[str, ...], Longs, Longs]]:
    for number, batch in enumerate(islice(order.plan.batches(order.plan.begin(first_row)), batches)):
        yield number, batch.stretch.sources, *order.ordinals(batch)


def blocks_of(stream: Stream, ordinals: Longs) -> Longs:
    """The block that each row of a source begins in."""
    places = stream.places(ordinals)
    blocks = np.empty_like(ordinals)
    for epoch in np.unique(places.epoch).tolist():
        here = places.epoch == epoch
        blocks[here] = stream.epoch(epoch).order[places.position[here]]
    return blocks


def rows_by_block(stream: Stream, epoch: int = 0) -> Longs:
    """By block, the rows of an epoch that begin in it."""
    order, ends = stream.epoch(epoch)
    first_row = np.concatenate([[stream.first_row(epoch)], -(-(ends + stream.first_token(epoch)) // stream.row_tokens)])
    rows = np.empty(order.size, np.int64)
    rows[order] = np.diff(first_row)
    return rows


def row_order(stream: Stream, epoch: int = 0) -> Longs:
    """An order for the battery: element i is the place of the i-th row that an epoch serves among all of its rows, as
    they would come block by block."""
    rows = np.arange(stream.first_row(epoch), stream.first_row(epoch + 1))
    blocks, tokens = blocks_of(stream, rows), stream.places(rows).token
    places = np.empty_like(rows)
    places[np.lexsort((tokens, blocks))] = np.arange(rows.size)
    return places


def files_of(shards: NDArray[np.integer], units: Mapping[int, int]) -> Longs:
    """By block, the work unit that it was made from: an upstream file, or a few small neighbours."""
    numbers, which = np.unique(shards, return_inverse=True)
    return np.array([units[number] for number in numbers.tolist()], np.int64)[which]
