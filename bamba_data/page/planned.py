"""The mix as a plan weighs it, as a page shows it: a value, for plans are the loader's."""

from dataclasses import dataclass

MAX_STRETCHES = 64


@dataclass(frozen=True)
class PlannedStretch:
    """From row `first_row` of a run to before `end` the sources have these shares of the rows, by name; they sum to 1.
    `end` is None for the last."""

    first_row: int
    end: int | None
    batch_rows: int
    shares: dict[str, float]


@dataclass(frozen=True)
class PlannedMix:
    """The mix as a plan weighs it. `strangers` are sources that it names and this dataset does not have, or has with
    other content; `of` is how many stretches there are in all."""

    name: str
    row_tokens: int
    stretches: list[PlannedStretch]
    of: int
    strangers: list[str]
