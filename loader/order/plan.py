"""The plan: everything that decides which row comes next, as an append-only log that a run carries with it.

    header   what never changes: seed, row length, lattice rows, delimiters, window, hold-out, packing
    entries  in the order of the global row from which each holds:
             Mix(row, weights, batch_rows)     from here on these sources, in these shares, in batches of so many rows
             Ramp(row, rows, weights, stages)  from the shares of here to these, in a straight line over so many rows
             Cap(row, source, rows)            this source ends before its row of that number
             Skip(row, rows)                   these rows are not served
             Quarantine(row, source, block, document)   masked for the rest of its epoch, left out of later ones

Rows are global row indices. Mix, Ramp, Cap and Skip hold from the begin of a batch, so every batch lies in one mix. A
plan that adds entries at rows not yet served is the same plan to everything before: `prefix_digest` says so.

A plan that is there makes sense: whatever it is read from, and however it is added to, UserError says what does not.
To add an entry takes as long at the end of a long plan as of a short one.
"""

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bamba_data import canonical_json
from bamba_data.errors import UserError
from bamba_data.records import SEAL, seal, unseal

from ..cache.atomic_write import write_anew
from .mixture import MAX_ROW
from .stretches import Batch, Change, Cut, Stretch, Timeline, ramp, whole
from .stretches import Cap as CapAt

MAX_PLAN_BYTES = 16 << 20
#: Rows of a source in a window: then 3 pairs of rows of a source and batch share a block, on average over batches, at
#: the Bamba mix, and fewer for smaller sources (docs/shuffle.md).
WINDOW_ROWS = 52_224
#: The same where rows are made of groups of four blocks: at most 3 pairs share a group.
GROUPED_WINDOW_ROWS = 5 * WINDOW_ROWS
#: Least rows of a group of blocks that is packed by itself: at 256 best-fit rows are 99.6 % full.
GROUP_ROWS = 256

MAX_BATCH_ROWS = 1 << 24
MAX_STAGES = 4096

Row = Annotated[int, Field(ge=0, lt=MAX_ROW)]
Weights = Annotated[dict[str, Annotated[int, Field(gt=0)]], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Mix(_Strict):
    """`weights` are positive whole numbers by source; a source that is not among them has no rows."""

    kind: Literal["mix"] = "mix"
    row: Row
    weights: Weights
    batch_rows: Annotated[int, Field(ge=1, le=MAX_BATCH_ROWS)]


class Ramp(_Strict):
    """The shares go from those at `row` to those of `weights`, which hold from `row + rows` on, in `stages` steps."""

    kind: Literal["ramp"] = "ramp"
    row: Row
    rows: Annotated[int, Field(ge=1, lt=MAX_ROW)]
    weights: Weights
    stages: Annotated[int, Field(ge=1, le=MAX_STAGES)] = 32


class Cap(_Strict):
    """A source is left out from the batch on in which its row number `rows` would come, or from `row` on if that is
    past: it is then read `epochs` times, less than a batch. The other sources keep their proportions."""

    kind: Literal["cap"] = "cap"
    row: Row
    source: str
    epochs: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=0, lt=MAX_ROW)]


class Skip(_Strict):
    kind: Literal["skip"] = "skip"
    row: Row
    rows: Annotated[int, Field(ge=1, lt=MAX_ROW)]
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


Kind = Mix | Ramp | Cap | Skip | Quarantine | Note
Entry = Annotated[Kind, Field(discriminator="kind")]
E = TypeVar("E", bound=BaseModel)


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
    transform: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None  # of documents


class _Grown(NamedTuple):
    """What a plan's entries make: without those at the last row, those (with their numbers), and with them."""

    settled: Timeline
    last: tuple[tuple[int, Kind], ...]
    timeline: Timeline

    def and_(self, number: int, entry: Kind) -> "_Grown":
        if self.last and self.last[0][1].row == entry.row:  # of entries at one row, mixes hold before skips
            settled, last = self.settled, (*self.last, (number, entry))
        else:
            settled, last = self.timeline, ((number, entry),)
        return _Grown(settled, last, _with_entries(settled, last))


def _with_entries(timeline: Timeline, entries: tuple[tuple[int, Kind], ...]) -> Timeline:
    """All of which lie at one row."""
    row = entries[0][1].row
    changes: list[Change] = []
    for number, entry in entries:
        if isinstance(entry, Mix):
            changes = [Change(row, entry.weights, entry.batch_rows, ("mix", number))]
        elif isinstance(entry, Ramp):
            before = changes[0] if changes else timeline.holding(row)
            changes = ramp(row, entry.rows, entry.stages, before, entry.weights, ("mix", number))
    caps = [CapAt(row, entry.source, entry.rows) for _, entry in entries if isinstance(entry, Cap)]
    cuts = [Cut(row, entry.rows) for _, entry in entries if isinstance(entry, Skip)]
    return timeline.then(row, changes, caps, cuts) if changes or caps or cuts else timeline


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
        """A mix from row 0 on. Raises UserError, which names the field."""
        first = _made(Mix, row=0, weights=integers(weights), batch_rows=batch_rows)
        named = {name: identity for name, identity in sources.items() if name in first.weights}
        made = _made(Header, step_rows=batch_rows, **header)
        return _made(cls, header=made, sources=named, entries=[first])

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
        """From `row` on other weights, another batch size, or both. `sources` are the identities of new ones."""
        last = self._mix_at(_whole(row, "row"))
        entry = _made(
            Mix,
            row=row,
            weights=integers(weights) if weights is not None else self._weights_at(row),
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
        entry = _made(Ramp, row=row, rows=rows, weights=integers(weights), stages=stages)
        return self._with(entry, self._joined(entry.weights, sources))

    def with_cap(self, row: int, source: str, epochs: int, rows: int) -> "MixPlan":
        """A source is read at most `epochs` times, which are its first `rows` rows (`Order.capped` knows how many)."""
        return self._with(_made(Cap, row=row, source=source, epochs=epochs, rows=rows))

    def with_skip(self, row: int, rows: int, why: str = "") -> "MixPlan":
        """Rows [row, row + rows) are not served."""
        return self._with(_made(Skip, row=row, rows=rows, why=why))

    def with_quarantine(
        self, row: int, source: str, block: int, document: int | None = None, why: str = ""
    ) -> "MixPlan":
        """A block of a source, or a document of it, is no target from `row` on, and in no later epoch."""
        return self._with(_made(Quarantine, row=row, source=source, block=block, document=document, why=why))

    def with_note(self, row: int, why: str) -> "MixPlan":
        """Remember something."""
        return self._with(_made(Note, row=row, why=why))

    def _joined(self, weights: Mapping[str, int], sources: Mapping[str, str] | None) -> dict[str, str]:
        known = {name: identity for name, identity in (sources or {}).items() if name in weights}
        changed = [name for name in known if self.sources.get(name, known[name]) != known[name]]
        if changed:
            raise UserError(f"source {changed[0]!r} is other data now than at the start of this plan; name it anew")
        return self.sources | known

    def _with(self, entry: Kind, sources: dict[str, str] | None = None) -> "MixPlan":
        if entry.row < self.entries[-1].row:
            raise UserError(
                f"an entry at row {entry.row:,} comes before the last one, at row {self.entries[-1].row:,}: "
                "a plan is only ever added to"
            )
        named = self.sources if sources is None else sources
        _check_names(entry, named)
        grown = self._grown.and_(len(self.entries), entry)
        made = MixPlan.model_construct(header=self.header, sources=named, entries=[*self.entries, entry])
        made.__dict__["_grown"] = grown  # what the validator would find, from every entry
        return made

    def _mix_at(self, row: int) -> Mix:
        return next(entry for entry in reversed(self.entries) if isinstance(entry, Mix) and entry.row <= row)

    def _weights_at(self, row: int) -> Mapping[str, int]:
        """What was asked for, caps aside: in the middle of a ramp, the shares there."""
        grown = self._grown
        return (grown.timeline if row >= self.entries[-1].row else grown.settled).holding(row).weights

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
        _ = self._grown
        return self

    @cached_property
    def _grown(self) -> _Grown:
        timeline = Timeline(self.header.seed, self.header.step_rows)
        grown = _Grown(timeline, (), timeline)
        for _, group in groupby(enumerate(self.entries), key=lambda numbered: numbered[1].row):
            last = tuple(group)
            grown = _Grown(grown.timeline, last, _with_entries(grown.timeline, last))
        return grown

    @property
    def mixes(self) -> tuple[Stretch, ...]:
        """One for every mix that has rows, skipped ones too; the last has no end but MAX_ROW.

        A mix of the same weights goes on with the lattice: another batch size cuts the same order anew.
        """
        return self._grown.timeline.mixes

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All rows that are served, in order."""
        return self._grown.timeline.served

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """The sources by their numbers in a batch's `source`: as they first came into a mix, those of one mix by name.
        A source that joins later changes no number."""
        found: dict[str, None] = {}
        for entry in self.entries:
            if isinstance(entry, Mix | Ramp):
                found |= dict.fromkeys(sorted(entry.weights))
        return tuple(found | dict.fromkeys(sorted(self.sources)))

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
        if row > stretch.first_row and (row - stretch.first_row) % stretch.batch_rows:
            at = row - (row - stretch.first_row) % stretch.batch_rows
            raise UserError(f"no batch begins at row {row:,}: the one around it begins at row {at:,}")
        return row

    def batch_of(self, row: int) -> Batch | None:
        """The batch that a row is served in; None if it is skipped."""
        stretch = self.stretches[self._stretch_after(row)]
        if row < stretch.first_row:
            return None
        return stretch.batch(row - (row - stretch.first_row) % stretch.batch_rows)

    def _stretch_after(self, row: int) -> int:
        """The number of the stretch that a row lies in, or of the next one."""
        return bisect_right(self.stretches, row, key=lambda stretch: stretch.end)

    def rows_served_before(self, row: int, source: str) -> int:
        """Ordinals of a source that rows before `row` have, skipped ones included."""
        return self._grown.timeline.had(row).get(source, 0)

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
            entries = [entry.model_dump(mode="json") for entry in self.entries[:count]]
            named = {name for entry in entries for name in [*entry.get("weights", ()), entry.get("source")] if name}
            self._digests[count] = canonical_json.digest(
                [header, {name: self.sources[name] for name in sorted(named)}, entries]
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
            raise UserError(f"{path}: the plan cannot be written ({error.strerror or error})") from None

    @classmethod
    def load(cls, path: Path | str) -> "MixPlan":
        """What `save` wrote, or `dumps`, or a hand. Raises UserError that names the field."""
        return load(Path(path))


def _check_names(entry: Kind, sources: Mapping[str, str]) -> None:
    named: Iterator[str] | list[str] = []
    if isinstance(entry, Mix | Ramp):
        named = list(entry.weights)
    elif isinstance(entry, Quarantine | Cap):
        named = [entry.source]
    if unknown := sorted(set(named) - set(sources)):
        raise UserError(f"the {entry.kind} at row {entry.row:,} names {unknown}: no source of the plan")


def _made(model: type[E], **fields: Any) -> E:
    """Whole numbers of numpy are whole numbers. Raises UserError that names the field."""
    plain = {
        name: operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value
        for name, value in fields.items()
    }
    try:
        return model(**plain)
    except ValidationError as error:
        raise UserError(f"{model.__name__.lower()}: {_first(error)}") from None


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}: it must be a whole number") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} is {first['input']!r:.60}: {first['msg']}"


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
        raise UserError(f"{where}: {_first(error)}") from None


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
    if not any(exact.values()):
        raise UserError("no source has a weight above 0")
    return whole(exact)


def held_out(hashes: "np.ndarray[Any, np.dtype[np.uint64]]", holdout_ppm: int) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which candidates are held out: those with the smallest hashes, so that a larger share holds out all of a smaller
    one, and every dataset and run holds out the same documents."""
    return hashes < np.uint64(2**64 * holdout_ppm // 10**6)
