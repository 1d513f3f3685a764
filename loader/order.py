"""The order of rows: a plan and the blocks of its sources, put together. Global row index in, place in a source out.

A pure function of the plan and of what the blocks are; nothing here knows of ranks, workers or time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bamba_data.errors import UserError
from loader.blocks import Blocks
from loader.deviation import earlier_equal
from loader.kept import keep_in
from loader.mix import Rows
from loader.permutation import derive_key
from loader.plan import Batch, MixPlan, held_out
from loader.segments import Shape
from loader.stream import Removed, Stream, removals


class Places(NamedTuple):
    """Documents: block and place in it, in that order, and tokens."""

    blocks: Rows
    documents: Rows
    tokens: Rows

    def documents_of(self, block: int) -> Rows:
        low, high = np.searchsorted(self.blocks, (block, block + 1))
        return self.documents[low:high]


class Ordinals(NamedTuple):
    """By row: which source (number in the batch's stretch) and which of its rows."""

    sources: Rows
    ordinals: Rows


@dataclass(frozen=True)
class Held:
    """One source as the plan has it: its stream, its held-out documents, and what is masked."""

    blocks: Blocks
    stream: Stream
    shape: Shape
    heldout: Places
    left_out_from: Mapping[tuple[int, int], int]  # (block, document) -> first epoch without it
    masked_from: Mapping[tuple[int, int], int]  # (block, document) -> global row from which it is masked

    def left_out(self, block: int, epoch: int) -> frozenset[int]:
        """The documents of a block that an epoch does not have."""
        found = frozenset(self.heldout.documents_of(block).tolist())
        if self.left_out_from:
            late = (place[1] for place, first in self.left_out_from.items() if place[0] == block and first <= epoch)
            found = found.union(late)
        return found


class Order:
    """`available` are the blocks by source name; `cache` keeps the orders of large epochs for other processes."""

    def __init__(self, plan: MixPlan, available: Mapping[str, Blocks], cache: Path | None = None) -> None:
        self.plan = plan
        self.available = available
        self._cache = cache
        self._blocks: dict[str, Blocks] = {}
        for name, identity in plan.sources.items():
            if name not in available:
                raise UserError(f"the plan names source {name!r}, the data has {sorted(available)}")
            if available[name].identity != identity:
                raise UserError(
                    f"source {name!r} is {available[name].identity}, the plan was made for {identity}: open the "
                    "version that it was made for, or give the new data another name in a new mix"
                )
            self._blocks[name] = available[name]
        dtypes = {blocks.dtype for blocks in self._blocks.values()}
        if len(dtypes) > 1:
            raise UserError(f"the sources have ids of {sorted(map(str, dtypes))}: they are of different tokenizers")
        (self.dtype,) = dtypes
        for name in plan.sources:
            if self.source(name).stream.epoch_tokens == 0:
                raise UserError(f"source {name!r} has no tokens: give it weight 0")

    def source(self, name: str) -> Held:
        return self._sources[name]

    @cached_property
    def _sources(self) -> dict[str, Held]:
        return {name: self._held(name, blocks) for name, blocks in self._blocks.items()}

    def _held(self, name: str, blocks: Blocks) -> Held:
        header = self.plan.header
        key = derive_key(header.seed, "source", name) if header.shuffle else None
        shape = Shape(tuple(header.before), tuple(header.after), key)
        heldout = _held_out(blocks, header.holdout_ppm)
        delimiters = len(header.before) + len(header.after)
        lengths = blocks.tokens + delimiters * blocks.documents
        np.subtract.at(lengths, heldout.blocks, heldout.tokens + delimiters)
        removed: list[Removed] = []
        left_out: dict[tuple[int, int], int] = {}
        masked: dict[tuple[int, int], int] = {}

        def stream() -> Stream:
            parts = (lengths, header.row_tokens, header.window_rows, key, removals(removed))
            if self._cache is None:
                return Stream(*parts)
            kept_as = f"{blocks.identity} {delimiters} {header.holdout_ppm}"
            return Stream(*parts, keep_in(self._cache, kept_as, key, tuple(removed)))

        for entry in self.plan.quarantines:
            if entry.source != name:
                continue
            if entry.block >= len(blocks.tokens):
                raise UserError(f"quarantine of block {entry.block:,} of {name!r}, which has {len(blocks.tokens):,}")
            now = stream()
            served = self.plan.rows_served_before(entry.row, name)
            epoch = int(now.epoch_of(np.array([served]))[0])
            # The last row of an epoch ends in the next one. What it holds of that keeps its place there too.
            following = now.epoch(epoch + 1)
            position = int(np.flatnonzero(following.order == entry.block)[0])
            begins = int(following.ends[position - 1]) if position else 0
            first = epoch + 2 if begins <= header.row_tokens else epoch + 1
            counts = blocks.read(entry.block).counts
            if entry.document is not None and entry.document >= len(counts):
                raise UserError(f"quarantine of document {entry.document} of block {entry.block} of {name!r}: no such")
            for document in range(len(counts)) if entry.document is None else [entry.document]:
                place = (entry.block, document)
                if place in masked or document in heldout.documents_of(entry.block):
                    continue
                masked[place], left_out[place] = entry.row, first
                removed.append(Removed(first, entry.block, int(counts[document]) + delimiters))
        return Held(blocks, stream(), shape, heldout, left_out, masked)

    def ordinals(self, batch: Batch) -> Ordinals:
        """Of all rows of one or more whole batches in sequence, in order."""
        lattice = batch.stretch.lattice
        rows = np.arange(batch.first_row, batch.first_row + batch.rows)
        sources = lattice.sources(rows)
        return Ordinals(sources, lattice.counts(batch.first_row)[sources] + earlier_equal(sources))


def _held_out(blocks: Blocks, holdout_ppm: int) -> Places:
    candidates = blocks.candidates
    chosen = np.flatnonzero(held_out(candidates.hash, holdout_ppm))
    return Places(candidates.block[chosen], candidates.document[chosen], candidates.tokens[chosen])
