"""The plan: everything that decides which row comes next, as an append-only log that a run carries with it.

    header   what never changes: seed, row length, lattice rows, delimiters, window, hold-out, packing
    entries  in the order of the global row from which each holds:
             Mix(row, weights, batch_rows)     from here on these sources, in these shares, in batches of so many rows
             Ramp(row, rows, weights, stages)  from the shares of here to these, in a straight line over so many rows
             Cap(row, source, rows)            this source ends before its row of that number
             Skip(row, rows)                   these rows are not served
             Quarantine(row, source, block, document)   masked for the rest of its epoch, left out of later ones

             Note(row, why)                    changes nothing

Rows are global row indices. Mix, Ramp, Cap and Skip hold from the begin of a batch, so every batch lies in one mix. A
plan that adds entries at rows not yet served is the same plan to everything before: `prefix_digest` says so.

A plan that exists makes sense: whatever it is read from, and however it is added to, UserError says what does not.
To add an entry takes as long at the end of a long plan as of a short one (plan_timeline.py).
"""

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError
from bamba_data.records import SEAL, seal, unseal

from ..cache.atomic_write import write_anew
from .plan_entries import (
    Cap,
    Entry,
    Header,
    Mix,
    Note,
    Quarantine,
    Ramp,
    Record,
    Skip,
    first_error,
    integers,
    named_sources,
    validated,
)
from .plan_timeline import PlanTimeline
from .stretches import Batch, Stretch, Timeline

MAX_PLAN_BYTES = 16 << 20


class MixPlan(Record):
    """A frozen value: each `with_…` gives a new plan, with one entry more.

    `sources` are the identities (`Blocks.identity`) of all sources that entries name, by name. Rows are global row
    indices, 0 <= row < 2**62.
    """

    header: Header
    sources: dict[str, str]
    entries: list[Annotated[Entry, Field(discriminator="kind")]] = Field(min_length=1)

    @classmethod
    def create(
        cls,
        weights: Mapping[str, float | int | str],
        sources: Mapping[str, str],
        batch_rows: int,
        **header: Any,
    ) -> "MixPlan":
        """A plan of one mix, from row 0 on.

        Args:
            weights: by source, in proportion to its share of rows; 0 leaves a source out.
            sources: identities by name; those without a weight are left out.
            batch_rows: rows of a batch, over all ranks; also the step of the lattice, which stays when batches grow.
            **header: the other fields of `Header`.

        Raises:
            UserError: a field is not what it can be; its name is in the message.
        """
        first = validated(Mix, row=0, weights=integers(weights), batch_rows=batch_rows)
        weighted = {name: identity for name, identity in sources.items() if name in first.weights}
        validated_header = validated(Header, step_rows=batch_rows, **header)
        return validated(cls, header=validated_header, sources=weighted, entries=[first])

    @model_validator(mode="after")
    def _makes_sense(self) -> "MixPlan":
        return self.checked()

    # ---- append

    def with_mix(
        self,
        row: int,
        weights: Mapping[str, float | int | str] | None = None,
        batch_rows: int | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> "MixPlan":
        """From `row` on other weights, another batch size, or both. `sources` are the identities of new ones.

        Raises:
            UserError: no batch begins at `row`, an entry at a later row is there already, or a source is other data
                than the plan's of that name. The same holds of each `with_…`.
        """
        try:
            last = self._mix_at(operator.index(row))
        except TypeError:
            raise UserError(f"row is {row!r}: it must be a whole number") from None
        entry = validated(
            Mix,
            row=row,
            weights=integers(weights) if weights is not None else self.weights_at(row),
            batch_rows=last.batch_rows if batch_rows is None else batch_rows,
        )
        return self._with(entry, self._joined(entry.weights, sources))

    def with_ramp(
        self,
        row: int,
        rows: int,
        weights: Mapping[str, float | int | str],
        stages: int = 32,
        sources: Mapping[str, str] | None = None,
    ) -> "MixPlan":
        """From the shares at `row` to those of `weights` at `row + rows`, in a straight line of so many steps; from
        there on `weights`. A later mix ends it where it is."""
        entry = validated(Ramp, row=row, rows=rows, weights=integers(weights), stages=stages)
        return self._with(entry, self._joined(entry.weights, sources))

    def with_cap(self, row: int, source: str, epochs: int, rows: int) -> "MixPlan":
        """A source is read at most `epochs` times, which are its first `rows` rows (`Order.capped` knows how many)."""
        return self._with(validated(Cap, row=row, source=source, epochs=epochs, rows=rows))

    def with_skip(self, row: int, rows: int, why: str = "") -> "MixPlan":
        """Rows [row, row + rows) are not served."""
        return self._with(validated(Skip, row=row, rows=rows, why=why))

    def with_quarantine(
        self, row: int, source: str, block: int, document: int | None = None, why: str = ""
    ) -> "MixPlan":
        """A block of a source, or a document of it, is no target from `row` on, and in no later epoch."""
        return self._with(validated(Quarantine, row=row, source=source, block=block, document=document, why=why))

    def with_note(self, row: int, why: str) -> "MixPlan":
        """Remember something."""
        return self._with(validated(Note, row=row, why=why))

    def _joined(self, weights: Mapping[str, int], sources: Mapping[str, str] | None) -> dict[str, str]:
        given = {name: identity for name, identity in (sources or {}).items() if name in weights}
        for name, identity in given.items():
            if self.sources.get(name, identity) != identity:
                raise UserError(
                    f"source {name!r} is other data now than in this plan ({identity} now, {self.sources[name]} in the "
                    "plan): give the new data another name"
                )
        return self.sources | given

    def _with(self, entry: Entry, sources: dict[str, str] | None = None) -> "MixPlan":
        if entry.row < self.entries[-1].row:
            raise UserError(
                f"an entry at row {entry.row:,} comes before the last one, at row {self.entries[-1].row:,}: "
                "a plan is only ever added to"
            )
        sources = self.sources if sources is None else sources
        _check_names(entry, sources)
        timeline = self._timeline.plus(len(self.entries), entry)
        # Without the validator, which would fold every entry anew: a plan of n entries took n**2 steps to make.
        plan = MixPlan.model_construct(header=self.header, sources=sources, entries=[*self.entries, entry])
        plan.__dict__["_timeline"] = timeline
        return plan

    def _mix_at(self, row: int) -> Mix:
        return next(entry for entry in reversed(self.entries) if isinstance(entry, Mix) and entry.row <= row)

    def weights_at(self, row: int) -> Mapping[str, int]:
        """What was asked for, caps aside: in the middle of a ramp, the shares there. `row` is not before an entry."""
        folded = self._timeline
        return (folded.timeline if row >= self.entries[-1].row else folded.settled).holding(row).weights

    # ---- read

    def checked(self) -> "MixPlan":
        """This plan, if its entries make sense. Raises UserError."""
        if not isinstance(self.entries[0], Mix) or self.entries[0].row != 0:
            raise UserError("a plan begins with a mix at row 0")
        for entry, following in zip(self.entries, self.entries[1:], strict=False):
            if following.row < entry.row:
                raise UserError(
                    f"the {following.kind} at row {following.row:,} comes after the {entry.kind} at row "
                    f"{entry.row:,}: entries come in the order of their rows"
                )
        for entry in self.entries:
            _check_names(entry, self.sources)
        _ = self._timeline  # which refuses what does not fit together
        return self

    @cached_property
    def _timeline(self) -> PlanTimeline:
        return PlanTimeline.of(Timeline(self.header.seed, self.header.step_rows), self.entries)

    @property
    def mixes(self) -> tuple[Stretch, ...]:
        """One for every mix that has rows, skipped ones too; the last has no end but MAX_ROW.

        A mix of the same weights goes on with the lattice: another batch size cuts the same order anew.
        """
        return self._timeline.timeline.mixes

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All rows that are served, in order."""
        return self._timeline.timeline.served

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """The sources by their numbers in a batch's `source`: as they first came into a mix, those of one mix by name.
        A source that joins later changes no number."""
        names: dict[str, None] = {}  # for its order
        for entry in self.entries:
            if isinstance(entry, Mix | Ramp):
                names |= dict.fromkeys(sorted(entry.weights))
        return tuple(names | dict.fromkeys(sorted(self.sources)))

    def batches(self, row: int) -> Iterator[Batch]:
        """The batches from `row` on, which must be where one begins (see `begin`)."""
        while (batch := self.batch_from(row)) is not None:
            yield batch
            row = batch.first_row + batch.rows

    def batch_from(self, row: int) -> Batch | None:
        """The batch that begins at `row`, or is the next one after it, if rows are skipped there."""
        number = self._stretch_after(row)
        if number == len(self.stretches):
            return None
        stretch = self.stretches[number]
        return stretch.batch(max(row, stretch.first_row))

    def stretches_from(self, row: int) -> Iterator[Stretch]:
        """The one that a row lies in, or the next one, and all that follow."""
        for number in range(self._stretch_after(row), len(self.stretches)):
            yield self.stretches[number]

    def begin(self, row: int) -> int:
        """`row`, if a batch begins there or rows are skipped there. Raises UserError else."""
        stretch = self.stretches[self._stretch_after(row)]
        if row > stretch.first_row and (start := stretch.batch_start(row)) != row:
            raise UserError(f"no batch begins at row {row:,}: the one around it begins at row {start:,}")
        return row

    def batch_of(self, row: int) -> Batch | None:
        """The batch that a row is served in; None if it is skipped."""
        stretch = self.stretches[self._stretch_after(row)]
        if row < stretch.first_row:
            return None
        return stretch.batch(stretch.batch_start(row))

    def _stretch_after(self, row: int) -> int:
        """The number of the stretch that a row lies in, or of the next one."""
        return bisect_right(self.stretches, row, key=lambda stretch: stretch.end)

    def rows_served_before(self, row: int, source: str) -> int:
        """How many rows of a source lie before the global row `row`, skipped ones included."""
        return self._timeline.timeline.counts(row).get(source, 0)

    @property
    def quarantines(self) -> list[Quarantine]:
        return [entry for entry in self.entries if isinstance(entry, Quarantine)]

    # ---- identity

    def prefix_digest(self, row: int) -> str:
        """Of all that decides the rows before `row`. Equal for a plan and one that only adds to it later."""
        return self._digest(bisect_left(self.entries, max(1, row), key=lambda entry: entry.row))

    def begins_as(self, digest: str) -> bool:
        """That this plan only adds to the one of which `digest` is that of row 0: what is added at row 0 changes
        nothing that was served."""
        at_0 = bisect_left(self.entries, 1, key=lambda entry: entry.row)
        return any(self._digest(count) == digest for count in range(at_0, 0, -1))

    def extends(self, other: "MixPlan") -> bool:
        """That this plan is `other` and what was added to it."""
        known = {name: self.sources.get(name) for name in other.sources}
        same = self.header == other.header and known == other.sources
        return same and self.entries[: len(other.entries)] == other.entries

    @cached_property
    def _digests(self) -> dict[int, str]:
        return {}

    def _digest(self, count: int) -> str:
        """Of the first entries."""
        if count not in self._digests:
            header = self.header.model_dump(mode="json", exclude_none=True)
            entries = self.entries[:count]
            sources = {name: self.sources[name] for entry in entries for name in named_sources(entry)}
            self._digests[count] = canonical_json.digest(
                [header, sources, [entry.model_dump(mode="json") for entry in entries]]
            )
        return self._digests[count]

    # ---- files

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `read_plan` takes."""
        return self.model_dump(mode="json") | {"header": self.header.model_dump(mode="json", exclude_none=True)}

    def dumps(self) -> bytes:
        return canonical_json.dumps(self.to_json())

    def save(self, path: Path | str) -> None:
        """Write it, whole or not at all, with its own digest: a file that was changed by chance is refused. To change
        one on purpose, take the digest out."""
        try:
            write_anew(Path(path), seal(self.to_json()))
        except OSError as error:
            raise UserError(
                f"{path}: the plan cannot be written ({error.strerror or error}). Name a folder that exists and can be "
                "written"
            ) from None

    @classmethod
    def load(cls, path: Path | str) -> "MixPlan":
        """What `save` wrote, or `dumps`, or a hand. Raises UserError that names the field."""
        return load(Path(path))


def _check_names(entry: Entry, sources: Mapping[str, str]) -> None:
    if unknown := sorted(set(named_sources(entry)) - set(sources)):
        raise UserError(f"the {entry.kind} at row {entry.row:,} names {unknown}: no source of the plan")


def read_plan(plan: "MixPlan | Path | str | bytes | Mapping[str, Any]") -> MixPlan:
    """A plan, its file, its JSON, or what pydantic dumped of it. Raises UserError that names the field."""
    if isinstance(plan, MixPlan):
        return plan
    if isinstance(plan, Mapping):
        try:
            return loads(canonical_json.dumps(dict(plan)), "the plan")
        except (TypeError, ValueError) as error:
            raise UserError(f"the plan is no JSON: {error}") from None
    if isinstance(plan, bytes):
        return loads(plan, "the plan")
    if isinstance(plan, str) and plan.lstrip().startswith("{"):
        return loads(plan.encode(), "the plan")
    if isinstance(plan, str | Path):
        return load(Path(plan))
    raise UserError(f"plan is a {type(plan).__name__}: it can be a MixPlan, its file or its JSON")


def loads(data: bytes, where: str) -> MixPlan:
    """Read a plan that somebody may have written by hand. Raises UserError that names the field."""
    raw = canonical_json.loads(data, where, MAX_PLAN_BYTES)
    if isinstance(raw, dict) and SEAL in raw:
        raw = unseal(data, where, MAX_PLAN_BYTES)
    try:
        return MixPlan.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {first_error(error)}") from None


def load(path: Path) -> MixPlan:
    """A plan's file: see `MixPlan.load`."""
    try:
        return loads(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: the plan cannot be read ({error})") from None
