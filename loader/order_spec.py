"""What a loader is asked for in arguments: checked, and held against the plan that is given beside them.

A plan decides all that it says. An argument that says something else is a contradiction, and never left out in silence.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bamba_data.errors import UserError

from .open_data import Opened
from .order.plan import GROUPED_WINDOW_ROWS, WINDOW_ROWS, Mix, MixPlan, Ramp, integers
from .special_tokens import delimiters_of

MAX_HOLDOUT = 0.005
MAX_ID = 2**31
USUAL_HOLDOUT = 0.0005


@dataclass(frozen=True)
class Asked:
    """The arguments that a plan is made of; None where nothing was said."""

    weights: Mapping[str, float | int | str] | None = None
    row_tokens: int | None = None
    batch_rows: int | None = None
    seed: int | None = None
    delimiters: str | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    holdout: float | None = None
    packing: str | None = None
    window_rows: int | None = None
    shuffle: bool | None = None
    document_transform: str | None = None

    def __post_init__(self) -> None:
        for name, least in {
            "row_tokens": 1,
            "batch_rows": 1,
            "seed": 0,
            "window_rows": 1,
            "bos_id": -MAX_ID,
            "eos_id": -MAX_ID,
        }.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, count(name, value, least))
        for name in ("packing", "delimiters", "document_transform"):
            if not isinstance(getattr(self, name), str | None):
                raise UserError(f"{name} is {getattr(self, name)!r}: it must be a name")
        switch("shuffle", self.shuffle is None or self.shuffle)
        if not isinstance(self.weights, Mapping | None):
            raise UserError(f"weights are {self.weights!r:.80}: they must be numbers by source, such as {{'web': 3}}")
        if self.weights is not None and not self.weights:
            raise UserError("weights are {}: name sources, or give None for all of them by their tokens")
        if self.holdout is not None and not 0 <= _number("holdout", self.holdout) <= MAX_HOLDOUT:
            raise UserError(f"holdout is {self.holdout!r}: it can be between 0 and {MAX_HOLDOUT}")

    def plan(self, opened: Sequence[Opened], tokens: Mapping[str, int], identities: Mapping[str, str]) -> MixPlan:
        """A new one, for sources of so many tokens."""
        before, after = self._delimiters(opened)
        shares = tokens if self.weights is None else self.weights
        if unknown := sorted(set(shares) - set(tokens)):
            raise UserError(f"weights name {unknown}, the data has {sorted(tokens)}")
        packing = self.packing or "chunk"
        return MixPlan.create(
            shares,
            identities,
            1 if self.batch_rows is None else self.batch_rows,
            seed=self.seed or 0,
            row_tokens=4096 if self.row_tokens is None else self.row_tokens,
            before=before,
            after=after,
            holdout_ppm=self._holdout_ppm,
            packing=packing,
            shuffle=self.shuffle is not False,
            transform=self.document_transform,
            window_rows=self.window_rows or (WINDOW_ROWS if packing == "chunk" else GROUPED_WINDOW_ROWS),
        )

    def agree(self, plan: MixPlan, opened: Sequence[Opened]) -> None:
        """Raises UserError that names both, where an argument says something else than `plan` does."""
        header, mixes = plan.header, [entry for entry in plan.entries if isinstance(entry, Mix | Ramp)]
        for name in ("seed", "row_tokens", "packing", "window_rows", "shuffle"):
            asked, has = getattr(self, name), getattr(header, name)
            if asked is not None and asked != has:
                raise _contradiction(name, asked, has)
        if self.document_transform not in (None, header.transform):
            raise _contradiction("document_transform", self.document_transform, header.transform)
        if self.holdout is not None and self._holdout_ppm != header.holdout_ppm:
            raise _contradiction("holdout", self.holdout, header.holdout_ppm / 1e6)
        sizes = [mix.batch_rows for mix in mixes if isinstance(mix, Mix)]
        if self.batch_rows is not None and self.batch_rows not in sizes:
            raise _contradiction("batch_rows", self.batch_rows, _one_or_all(sizes))
        weights = [dict(mix.weights) for mix in mixes]
        if self.weights is not None and (asked := integers(self.weights)) not in weights:
            raise _contradiction("weights", asked, _one_or_all(weights))
        if (self.delimiters, self.bos_id, self.eos_id) != (None, None, None):
            before, after = self._delimiters(opened)
            if (before, after) != (header.before, header.after):
                has = f"{header.before} before and {header.after} after every document"
                raise _contradiction("delimiters", f"{before} before and {after} after", has)

    def _delimiters(self, opened: Sequence[Opened]) -> tuple[list[int], list[int]]:
        return delimiters_of(opened, self.delimiters or "eos", self.bos_id, self.eos_id)

    @property
    def _holdout_ppm(self) -> int:
        return round((USUAL_HOLDOUT if self.holdout is None else self.holdout) * 1e6)


def _contradiction(name: str, asked: object, has: object) -> UserError:
    return UserError(
        f"{name} is {asked!r}, and the plan that is given has {has!r}: leave the argument out, or make another plan"
    )


def _one_or_all(values: Sequence[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else values


def count(name: str, value: Any, least: int) -> int:
    """A whole number of at least so much; those of numpy are some. Raises UserError that names it."""
    if isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: it must be a whole number")
    try:
        found = operator.index(value)
    except TypeError:
        raise UserError(
            f"{name} is {value!r}, a {type(value).__name__}: it must be a whole number (int(...) makes one)"
        ) from None
    if found < least:
        raise UserError(f"{name} is {found:,}: it must be {least:,} or more")
    return found


def switch(name: str, value: Any) -> None:
    """Raises UserError for what is neither True nor False: text that says "no" is true to Python."""
    if not isinstance(value, bool):
        raise UserError(f"{name} is {value!r}: it must be True or False")


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}: it must be a number") from None
