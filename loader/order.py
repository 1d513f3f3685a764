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
from loader.mix import Rows
from loader.packing import Documents, Gone, Material, Packing, heldout_of
from loader.packings import packing_of
from loader.permutation import derive_key
from loader.plan import MixPlan
from loader.stream import Stream
from loader.stretches import Batch


class Ordinals(NamedTuple):
    """By row: which source (number in the batch's stretch) and which of its rows."""

    sources: Rows
    ordinals: Rows


@dataclass(frozen=True)
class Held:
    """One source as the plan has it: its packing, its held-out documents, and what is masked."""

    blocks: Blocks
    packing: Packing
    heldout: Documents
    left_out_from: Mapping[tuple[int, int], int]  # (block, document) -> first epoch without it
    masked_from: Mapping[tuple[int, int], int]  # (block, document) -> global row from which it is masked

    @property
    def stream(self) -> Stream:
        """Where its rows lie."""
        return self.packing.stream


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

    def __reduce__(self) -> tuple[type["Order"], tuple[MixPlan, dict[str, Blocks], Path | None]]:
        """Where a process is not forked, it makes the same order anew: maps of files do not travel."""
        return Order, (self.plan, dict(self.available), self._cache)

    def source(self, name: str) -> Held:
        return self._sources[name]

    @cached_property
    def _sources(self) -> dict[str, Held]:
        return {name: self._held(name, blocks) for name, blocks in self._blocks.items()}

    def _held(self, name: str, blocks: Blocks) -> Held:
        header = self.plan.header
        key = derive_key(header.seed, "source", name) if header.shuffle else None
        heldout = heldout_of(blocks, header.holdout_ppm)
        material = Material(blocks, header, key, heldout, self._cache)
        packing = packing_of(material)
        gone: list[Gone] = []
        left_out: dict[tuple[int, int], int] = {}
        masked: dict[tuple[int, int], int] = {}
        for entry in self.plan.quarantines:
            if entry.source != name:
                continue
            if entry.block >= len(blocks.tokens):
                raise UserError(f"quarantine of block {entry.block:,} of {name!r}, which has {len(blocks.tokens):,}")
            first = packing.first_without(self.plan.rows_served_before(entry.row, name), entry.block)
            counts = blocks.read(entry.block).counts
            if entry.document is not None and entry.document >= len(counts):
                raise UserError(f"quarantine of document {entry.document} of block {entry.block} of {name!r}: no such")
            for document in range(len(counts)) if entry.document is None else [entry.document]:
                place = (entry.block, document)
                if place in masked or document in heldout.documents_of(entry.block):
                    continue
                masked[place], left_out[place] = entry.row, first
                gone.append(Gone(first, entry.block, document, int(counts[document]) + material.delimiters))
            packing = packing.without(gone)
        return Held(blocks, packing, heldout, left_out, masked)

    def ordinals(self, batch: Batch) -> Ordinals:
        """Of all rows of one or more whole batches in sequence, in order."""
        lattice = batch.stretch.lattice
        rows = np.arange(batch.first_row, batch.first_row + batch.rows)
        sources = lattice.sources(rows)
        return Ordinals(sources, lattice.counts(batch.first_row)[sources] + earlier_equal(sources))
