"""The order of rows: a plan and the blocks of its sources, put together. Global row index in, place in a source out.

A pure function of the plan and of what the blocks are; nothing here knows of ranks, workers or time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import UserError

from .order.deviation import earlier_equal
from .order.epochs import Stream
from .order.format1_names import difference, renamed
from .order.mixture import Rows
from .order.permutation import derive_key
from .order.plan import MixPlan
from .order.plan_entries import Quarantine
from .order.stretches import Batch
from .packing.base import Documents, Packing, PackingInput, RemovedDocument, heldout_of
from .packing.document_transforms import Transformed, transform_of
from .packing.registry import packing_of
from .sources.base import Blocks


class Ordinals(NamedTuple):
    """By row: which source (number in the batch's stretch) and which of its rows."""

    sources: Rows
    ordinals: Rows


@dataclass(frozen=True)
class PlannedSource:
    """One source as the plan has it.

    Attributes:
        blocks: Its blocks as they are stored.
        packing: Its rows.
        heldout: Documents that are in no epoch.
        left_out_from: Of what is in quarantine, (block, document) to the first epoch without it.
        masked_from: The same to the global row from which it is masked, up to that epoch.
        served: Its blocks as segments are made of them: under the plan's transform of documents, if it has one.
    """

    blocks: Blocks
    packing: Packing
    heldout: Documents
    left_out_from: Mapping[tuple[int, int], int]
    masked_from: Mapping[tuple[int, int], int]
    served: Blocks

    @property
    def stream(self) -> Stream:
        """Where its rows lie."""
        return self.packing.stream


class Order:
    """Which row of which source comes at every global row.

    Args:
        plan: The log of all that decides it.
        available: Blocks by source name; more than the plan names may be there.
        cache: Folder that keeps the orders of large epochs for other processes.

    Raises:
        UserError: The plan names a source that is not there or is other data, or sources have different tokenizers.
    """

    def __init__(self, plan: MixPlan, available: Mapping[str, Blocks], cache: Path | None = None) -> None:
        self.plan = plan = renamed(plan, available)
        self.available = available
        self._cache = cache
        for name in plan.sources:
            if name not in available:
                raise UserError(f"the plan names source {name!r}, the data has {sorted(available)}")
        dtypes = {available[name].dtype for name in plan.sources}
        if len(dtypes) > 1:
            raise UserError(f"the sources have ids of {sorted(map(str, dtypes))}: they are of different tokenizers")
        self.dtype = dtypes.pop() if plan.header.transform is None else np.dtype("<u4")  # of segments
        self._sources = {name: planned_source(plan, name, available[name], cache) for name in plan.sources}

    def __reduce__(self) -> tuple[type["Order"], tuple[MixPlan, dict[str, Blocks], Path | None]]:
        """Where a process is not forked, it makes the same order anew: maps of files do not travel."""
        return Order, (self.plan, dict(self.available), self._cache)

    def source(self, name: str) -> PlannedSource:
        """A source of the plan by its name."""
        return self._sources[name]

    def ordinals(self, batch: Batch) -> Ordinals:
        """Of the rows [first_row, first_row + rows) of a batch, or of several in sequence, in order."""
        lattice = batch.stretch.lattice
        rows = np.arange(batch.first_row, batch.first_row + batch.rows)
        sources = lattice.sources(rows)
        return Ordinals(sources, lattice.counts(batch.first_row)[sources] + earlier_equal(sources))

    def capped(self, epochs: Mapping[str, int], row: int = 0) -> MixPlan:
        """The plan, with the sources named read at most so many times: each is left out from the batch on in which it
        would begin once more."""
        plan = self.plan
        for name, most in epochs.items():
            if name not in self._sources:
                raise UserError(f"a cap on the epochs of {name!r}: the plan's sources are {sorted(self._sources)}")
            plan = plan.with_cap(row, name, most, self._sources[name].stream.first_row(most))
        return plan


def planned_source(plan: MixPlan, name: str, blocks: Blocks, cache: Path | None = None) -> PlannedSource:
    """One source as a plan has it. Raises UserError where the plan is not of this data, or asks for what it has not."""
    header = plan.header
    if blocks.identity != plan.sources[name]:
        raise UserError(
            f"source {name!r} is other data: {difference(blocks.identity, plan.sources[name], 'in the plan')}; open "
            "the version that it was made for, or give the new data another name in a new mix"
        )
    largest_id = np.iinfo(blocks.dtype).max
    for token in (*header.before, *header.after):
        if not 0 <= token <= largest_id:
            raise UserError(
                f"the plan puts id {token} around documents: those of source {name!r} are at most {largest_id:,}"
            )
    key = derive_key(header.seed, "source", name) if header.shuffle else None
    heldout = heldout_of(blocks, header.holdout_ppm)
    packing = packing_of(PackingInput(blocks, header, key, heldout, cache))
    if packing.stream.epoch_tokens == 0:
        raise UserError(f"source {name!r} has no tokens: give it weight 0")
    removed: list[RemovedDocument] = []
    left_out: dict[tuple[int, int], int] = {}
    masked: dict[tuple[int, int], int] = {}
    delimiters = len(header.before) + len(header.after)
    known: dict[int, NDArray[np.uint32]] = {}  # counts by block: a plan may have many documents of one
    for entry in plan.quarantines:
        if entry.source != name:
            continue
        counts = _counts_of_block(entry, blocks, known)
        first_epoch = packing.first_without(plan.rows_served_before(entry.row, name), entry.block)
        for document in range(len(counts)) if entry.document is None else [entry.document]:
            place = (entry.block, document)
            if place in masked or document in heldout.documents_of(entry.block):
                continue
            masked[place], left_out[place] = entry.row, first_epoch
            removed.append(RemovedDocument(first_epoch, *place, int(counts[document]) + delimiters))
        packing = packing.without(removed)  # at each entry: where an epoch ends depends on what left before it
    _check_lasts(plan, name, packing.stream)
    transform = header.transform
    served = blocks if transform is None else Transformed(blocks, transform, transform_of(transform))
    return PlannedSource(blocks, packing, heldout, left_out, masked, served)


def _counts_of_block(entry: Quarantine, blocks: Blocks, known: dict[int, NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """Tokens of each document of a quarantined block, read once. Raises UserError where the source does not have it."""
    if entry.block >= len(blocks.tokens):
        raise UserError(f"quarantine of block {entry.block:,} of {entry.source!r}, which has {len(blocks.tokens):,}")
    if entry.block not in known:
        known[entry.block] = blocks.read(entry.block).counts
    counts = known[entry.block]
    if entry.document is not None and entry.document >= len(counts):
        raise UserError(
            f"quarantine of document {entry.document} of block {entry.block} of {entry.source!r}: no such document, "
            f"the block has {len(counts):,}"
        )
    return counts


def _check_lasts(plan: MixPlan, name: str, stream: Stream) -> None:
    """Raises UserError where the plan serves a source that has nothing left, for all of it is in quarantine."""
    ended = stream.ended
    if ended is None:
        return
    rows = stream.first_row(ended)
    for mix in plan.mixes:
        if name not in mix.sources or plan.rows_served_before(mix.end, name) <= rows:
            continue
        row = mix.first_row
        if plan.rows_served_before(row, name) < rows:
            row = mix.lattice.row_of(mix.sources.index(name), rows)
        begin = row - (row - mix.first_row) % mix.batch_rows
        raise UserError(
            f"every document of source {name!r} is in quarantine, and from row {row:,} on there is none left to serve: "
            f"leave it out of the mix at row {begin:,} or before, or take a quarantine back"
        )
