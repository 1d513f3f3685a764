"""What a plan is made of: its header, and the entries that change the order from a global row on.

Each is a frozen record that pydantic checks strictly: a field that is unknown, missing or of another type is refused by
its name. The JSON of these records is the format of a plan (docs/formats.md) and part of its digest.
"""

import operator
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError

from .mixture import MAX_ROW
from .stretches import whole

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


class Record(BaseModel):
    """A frozen record that refuses unknown fields, and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ignored_types=(cached_property,))


class Mix(Record):
    """`weights` are positive whole numbers by source; a source that is not among them has no rows."""

    kind: Literal["mix"] = "mix"
    row: Row
    weights: Weights
    batch_rows: Annotated[int, Field(ge=1, le=MAX_BATCH_ROWS)]


class Ramp(Record):
    """The shares go from those at `row` to those of `weights`, which hold from `row + rows` on, in `stages` steps."""

    kind: Literal["ramp"] = "ramp"
    row: Row
    rows: Annotated[int, Field(ge=1, lt=MAX_ROW)]
    weights: Weights
    stages: Annotated[int, Field(ge=1, le=MAX_STAGES)] = 32


class Cap(Record):
    """A source is left out from the batch on in which its row number `rows` would come, or from `row` on if that is
    past. So it is read `epochs` times, less what a batch has of it. The other sources keep their proportions."""

    kind: Literal["cap"] = "cap"
    row: Row
    source: str
    epochs: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=0, lt=MAX_ROW)]


class Skip(Record):
    """Rows [row, row + rows) are not served, and count as if they had been."""

    kind: Literal["skip"] = "skip"
    row: Row
    rows: Annotated[int, Field(ge=1, lt=MAX_ROW)]
    why: str = ""


class Quarantine(Record):
    """A block of a source (by its number there), or one document of it, is no target from `row` on."""

    kind: Literal["quarantine"] = "quarantine"
    row: Row
    source: str
    block: Annotated[int, Field(ge=0)]
    document: Annotated[int, Field(ge=0)] | None = None
    why: str = ""


class Note(Record):
    """A decision that changes nothing in the order but must not be forgotten."""

    kind: Literal["note"] = "note"
    row: Row
    why: str


Entry = Mix | Ramp | Cap | Skip | Quarantine | Note
RecordType = TypeVar("RecordType", bound=BaseModel)


class Header(Record):
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
    holdout_ppm: Annotated[int, Field(ge=0, le=500_000)] = 500
    transform: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None  # of documents


def named_sources(entry: Entry) -> list[str]:
    """The sources that an entry speaks of, by name."""
    if isinstance(entry, Mix | Ramp):
        return list(entry.weights)
    return [entry.source] if isinstance(entry, Cap | Quarantine) else []


def validated(model: type[RecordType], **fields: Any) -> RecordType:
    """A record of these fields; a whole number of numpy will do for one. Raises UserError that names the field."""
    plain = {
        name: operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value
        for name, value in fields.items()
    }
    try:
        return model(**plain)
    except ValidationError as error:
        raise UserError(f"{model.__name__.lower()}: {first_error(error)}") from None


def first_error(error: ValidationError) -> str:
    """The first of pydantic's errors in a line: field, value, reason."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} is {first['input']!r:.60}: {first['msg']}"


def integers(weights: Mapping[str, float | int | str]) -> dict[str, int]:
    """Weights as the smallest whole numbers in the same proportion, as people wrote them.

    0.1 is a tenth, not the binary fraction next to it: weights decide every row, so they must be what is on paper. A
    weight of 0 leaves its source out.

    Raises:
        UserError: a weight is no number or negative, or none is above 0.
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
