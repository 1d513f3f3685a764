"""The plan: everything that decides which row comes next, as an append-only log that a run carries with it.

    header   what never changes: seed, row length, lattice rows, delimiters, window, hold-out, packing
    entries  in the order of the global row from which each holds:
             Mix(row, weights, batch_rows)     from here on these sources, in these shares, in batches of so many rows
             Skip(row, rows)                   these rows are not served
             Quarantine(row, source, block, document)   masked for the rest of its epoch, left out of later ones

Rows are global row indices. Mix and Skip hold from the begin of a batch, so every batch lies in one mix. A plan that
adds entries at rows not yet served is the same plan to everything before: `prefix_digest` says so.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bamba_data import canonical
from bamba_data.errors import UserError
from loader.mix import MAX_ROW, Lattice
from loader.permutation import derive_key

MAX_PLAN_BYTES = 16 << 20
#: Rows of a source in a window: then 3 pairs of rows of a source and batch share a block, on average over batches, at
#: the Bamba mix, and fewer for smaller sources (docs/shuffle.md).
WINDOW_ROWS = 52_224
#: The same where rows are made of groups of four blocks: at most 3 pairs share a group.
GROUPED_WINDOW_ROWS = 5 * WINDOW_ROWS
#: Least rows of a group of blocks that is packed by itself: at 256 best-fit rows are 99.6 % full.
GROUP_ROWS = 256

Row = Annotated[int, Field(ge=0, lt=MAX_ROW)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Mix(_Strict):
    """`weights` are positive whole numbers by source; a source that is not among them has no rows."""

    kind: Literal["mix"] = "mix"
    row: Row
    weights: dict[str, Annotated[int, Field(gt=0)]] = Field(min_length=1)
    batch_rows: Annotated[int, Field(ge=1)]


class Skip(_Strict):
    kind: Literal["skip"] = "skip"
    row: Row
    rows: Annotated[int, Field(ge=1)]
    why: str = ""


class Quarantine(_Strict):
    """A block of a source (its number within it), or one document of that block."""

    kind: Literal["quarantine"] = "quarantine"
    row: Row
    source: str
    block: Annotated[int, Field(ge=0)]
    document: Annotated[int, Field(ge=0)] | None = None
    why: str = ""


class Note(_Strict):
    """A decision that changes nothing in the order but must not be forgotten."""

    kind: Literal["note"] = "note"
    row: Row
    why: str


Entry = Annotated[Mix | Skip | Quarantine | Note, Field(discriminator="kind")]


class Header(_Strict):
    """`sources` are the identities of all sources ever named, by name: data that changed is not the same order."""

    format: Literal["bamba-plan/1"] = "bamba-plan/1"
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    row_tokens: Annotated[int, Field(ge=1, le=1 << 24)]
    step_rows: Annotated[int, Field(ge=1)]
    before: list[int]
    after: list[int]
    packing: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "chunk"
    group_rows: Annotated[int, Field(ge=1)] = GROUP_ROWS
    window_rows: Annotated[int, Field(ge=1)] = WINDOW_ROWS
    shuffle: bool = True
    holdout_ppm: Annotated[int, Field(ge=0, le=5000)] = 500


class Batch(NamedTuple):
    """Rows [first_row, first_row + rows) of one mix."""

    first_row: int
    rows: int
    stretch: "Stretch"


@dataclass(frozen=True)
class Stretch:
    """Rows in sequence that are served, in batches of equal size, under one mix. `end` is exclusive."""

    first_row: int
    end: int
    batch_rows: int
    sources: tuple[str, ...]
    lattice: Lattice

    def batch(self, row: int) -> Batch:
        return Batch(row, min(self.batch_rows, self.end - row), self)


class MixPlan(_Strict):
    header: Header
    sources: dict[str, str]
    entries: list[Entry] = Field(min_length=1)

    @classmethod
    def create(
        cls,
        weights: Mapping[str, float | int | str],
        sources: Mapping[str, str],
        batch_rows: int,
        **header: Any,
    ) -> "MixPlan":
        first = Mix(row=0, weights=integers(weights), batch_rows=batch_rows)
        named = {name: identity for name, identity in sources.items() if name in first.weights}
        return cls(header=Header(step_rows=batch_rows, **header), sources=named, entries=[first]).checked()

    # ---- append

    def with_mix(
        self,
        row: int,
        weights: Mapping[str, float | int | str] | None = None,
        batch_rows: int | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> "MixPlan":
        """From `row` on other weights, another batch size, or both. `sources` are the identities of new ones."""
        last = self._mix_at(row)
        entry = Mix(
            row=row,
            weights=integers(weights) if weights is not None else last.weights,
            batch_rows=batch_rows or last.batch_rows,
        )
        known = {name: identity for name, identity in (sources or {}).items() if name in entry.weights}
        changed = [name for name in known if self.sources.get(name, known[name]) != known[name]]
        if changed:
            raise UserError(f"source {changed[0]!r} is other data now than at the start of this plan; name it anew")
        return self._with(entry, self.sources | known)

    def with_skip(self, row: int, rows: int, why: str = "") -> "MixPlan":
        return self._with(Skip(row=row, rows=rows, why=why))

    def with_quarantine(
        self, row: int, source: str, block: int, document: int | None = None, why: str = ""
    ) -> "MixPlan":
        return self._with(Quarantine(row=row, source=source, block=block, document=document, why=why))

    def with_note(self, row: int, why: str) -> "MixPlan":
        return self._with(Note(row=row, why=why))

    def _with(self, entry: Mix | Skip | Quarantine | Note, sources: dict[str, str] | None = None) -> "MixPlan":
        if entry.row < self.entries[-1].row:
            raise UserError(
                f"an entry at row {entry.row:,} comes before the last one, at row {self.entries[-1].row:,}: "
                "a plan is only ever added to"
            )
        return MixPlan(header=self.header, sources=sources or self.sources, entries=[*self.entries, entry]).checked()

    def _mix_at(self, row: int) -> Mix:
        return [entry for entry in self.entries if isinstance(entry, Mix) and entry.row <= row][-1]

    # ---- read

    def checked(self) -> "MixPlan":
        """This plan, if its entries make sense. Raises UserError."""
        if not isinstance(self.entries[0], Mix) or self.entries[0].row != 0:
            raise UserError("a plan begins with a mix at row 0")
        for entry in self.entries:
            named = entry.weights if isinstance(entry, Mix) else [entry.source] if isinstance(entry, Quarantine) else []
            if unknown := sorted(set(named) - set(self.sources)):
                raise UserError(f"the {entry.kind} at row {entry.row:,} names {unknown}: no source of the plan")
        _ = self.stretches
        return self

    @cached_property
    def mixes(self) -> tuple[Stretch, ...]:
        """One for every mix that has rows, skipped ones too; the last has no end but MAX_ROW.

        A mix of the same weights goes on with the lattice: another batch size cuts the same order anew.
        """
        entries = [(number, entry) for number, entry in enumerate(self.entries) if isinstance(entry, Mix)]
        totals = dict.fromkeys(self.sources, 0)
        found: list[Stretch] = []
        for (number, mix), (_, following) in zip(entries, [*entries[1:], (0, None)], strict=True):
            names = tuple(sorted(mix.weights))
            weights = tuple(mix.weights[name] for name in names)
            if found and (found[-1].sources, found[-1].lattice.weights) == (names, weights):
                lattice = found[-1].lattice
            else:
                key = derive_key(self.header.seed, "mix", number)
                lattice = Lattice.create(weights, self.header.step_rows, key, mix.row, [totals[name] for name in names])
            end = following.row if following else MAX_ROW
            if end > mix.row:
                found.append(Stretch(mix.row, end, mix.batch_rows, names, lattice))
                totals |= dict(zip(names, lattice.counts(min(end, MAX_ROW - 1)).tolist(), strict=True))
        return tuple(found)

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """All rows that are served, in order."""
        found: list[Stretch] = []
        skips = [entry for entry in self.entries if isinstance(entry, Skip)]
        for mix in self.mixes:
            current = mix
            for skip in (one for one in skips if mix.first_row <= one.row < mix.end):
                _at_batch(current, "skip", skip.row)
                _at_batch(current, "end of the skip", skip.row + skip.rows)
                if skip.row + skip.rows > mix.end:
                    raise UserError(f"the mix at row {mix.end:,} lies in rows that are skipped")
                found.append(replace(current, end=skip.row))
                current = replace(current, first_row=skip.row + skip.rows)
            if current.end < MAX_ROW:
                _at_batch(current, "mix", current.end)
            found.append(current)
        return tuple(one for one in found if one.first_row < one.end)

    def batches(self, row: int) -> Iterator[Batch]:
        """The batches from `row` on, which must be where one begins (see `begin`)."""
        for stretch in self.stretches:
            at = max(row, stretch.first_row)
            while at < stretch.end:
                batch = stretch.batch(at)
                yield batch
                at += batch.rows

    def begin(self, row: int) -> int:
        """`row`, if a batch begins there or rows are skipped there. Raises UserError else."""
        stretch = self._stretch_after(row)
        if row > stretch.first_row and (row - stretch.first_row) % stretch.batch_rows:
            at = row - (row - stretch.first_row) % stretch.batch_rows
            raise UserError(f"no batch begins at row {row:,}: the one around it begins at row {at:,}")
        return row

    def batch_of(self, row: int) -> Batch | None:
        """The batch that a row is served in; None if it is skipped."""
        stretch = self._stretch_after(row)
        if row < stretch.first_row:
            return None
        return stretch.batch(row - (row - stretch.first_row) % stretch.batch_rows)

    def _stretch_after(self, row: int) -> Stretch:
        """The stretch that a row lies in, or the next one."""
        ends = [stretch.end for stretch in self.stretches]
        return self.stretches[bisect_right(ends, row)]

    def rows_served_before(self, row: int, source: str) -> int:
        """Ordinals of a source that rows before `row` have, skipped ones included."""
        served = 0
        for mix in self.mixes:
            if mix.first_row < row and source in mix.sources:
                served = int(mix.lattice.counts(min(row, mix.end))[mix.sources.index(source)])
        return served

    @property
    def quarantines(self) -> list[Quarantine]:
        return [entry for entry in self.entries if isinstance(entry, Quarantine)]

    # ---- identity

    def prefix_digest(self, row: int) -> str:
        """Of all that decides the rows before `row`. Equal for a plan and one that only adds to it later."""
        header = self.header.model_dump(mode="json")
        entries = [entry.model_dump(mode="json") for entry in self.entries if entry.row < max(1, row)]
        named = {name for entry in entries for name in [*entry.get("weights", ()), entry.get("source")] if name}
        return canonical.digest([header, {name: self.sources[name] for name in sorted(named)}, entries])

    def dumps(self) -> bytes:
        return canonical.dumps(self.model_dump(mode="json"))


def loads(data: bytes, where: str) -> MixPlan:
    """Read a plan that somebody may have written by hand. Raises UserError that names the field."""
    try:
        return MixPlan.model_validate(canonical.loads(data, where, MAX_PLAN_BYTES)).checked()
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def load(path: Path) -> MixPlan:
    try:
        return loads(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: the plan cannot be read ({error})") from None


def integers(weights: Mapping[str, float | int | str]) -> dict[str, int]:
    """Weights as the smallest whole numbers in the same proportion, as people wrote them: 0.1 is a tenth.

    A weight of 0 leaves its source out.
    """
    exact: dict[str, Fraction] = {}
    for name, weight in weights.items():
        try:
            exact[name] = Fraction(str(weight))
        except (ValueError, ZeroDivisionError):
            raise UserError(f"weight {weight!r} of source {name!r} is no number") from None
        if exact[name] < 0:
            raise UserError(f"weight {weight!r} of source {name!r} is negative")
    positive = {name: value for name, value in exact.items() if value}
    if not positive:
        raise UserError("no source has a weight above 0")
    scale = lcm(*(value.denominator for value in positive.values()))
    whole = {name: int(value * scale) for name, value in positive.items()}
    divisor = gcd(*whole.values())
    return {name: value // divisor for name, value in whole.items()}


def held_out(hashes: "np.ndarray[Any, np.dtype[np.uint64]]", holdout_ppm: int) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which candidates are held out: those with the smallest hashes, so that a larger share holds out all of a smaller
    one, and every dataset and run holds out the same documents."""
    return hashes < np.uint64(2**64 * holdout_ppm // 10**6)


def _at_batch(current: Stretch, what: str, row: int) -> None:
    if row < current.first_row:
        raise UserError(f"the {what} at row {row:,} lies in rows that are skipped")
    if over := (row - current.first_row) % current.batch_rows:
        raise UserError(
            f"the {what} at row {row:,} lies inside a batch: batches of {current.batch_rows:,} begin at rows "
            f"{row - over:,} and {row - over + current.batch_rows:,}"
        )
