"""`where` of a recipe, asked of documents: true keeps one, false and unknown drop it, each by its own reason.

A condition is asked of documents of the same types together, and types are those of their own values: so an answer does
not depend on which neighbours came along. A value that is null, or a field that a record has not, is of any type.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from bamba_data.errors import UserError
from bamba_data.filtering.condition import Condition
from bamba_data.sources.fields import ABSENT

_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 63, 1 << 64)
_TYPES = {bool: pl.Boolean, float: pl.Float64, str: pl.String}

#: What a condition says of a document: true, false, None (unknown), or why it cannot be asked.
Answer = bool | None | str


class Where:
    """A condition that answers rows of Python values, in the order of `columns`."""

    def __init__(self, text: str) -> None:
        self.condition = Condition(text)
        self.columns = self.condition.columns
        self._schemas: dict[tuple[Any, ...], dict[str, Any] | str] = {}

    def answers(self, rows: Sequence[Sequence[Any]]) -> list[Answer]:
        """What it says of each."""
        answers: list[Answer] = [None] * len(rows)
        alike: dict[tuple[Any, ...], list[int]] = {}
        for number, row in enumerate(rows):
            kinds = tuple(_kind(value) for value in row)
            if strange := next((kind for kind in kinds if isinstance(kind, str)), None):
                answers[number] = strange
            else:
                alike.setdefault(kinds, []).append(number)
        for kinds, numbers in alike.items():
            schema = self._schema(kinds)
            if isinstance(schema, str):
                for number in numbers:
                    answers[number] = schema
                continue
            for number, answer in zip(numbers, self._ask([rows[n] for n in numbers], schema), strict=True):
                answers[number] = answer
        return answers

    def misfit(self, kinds: Sequence[Any]) -> str | None:
        """Why no row of these Polars types, by column (None: of any type), can be answered; None where it can."""
        schema = self._schema(tuple(kinds))
        return schema if isinstance(schema, str) else None

    def _schema(self, kinds: tuple[Any, ...]) -> dict[str, Any] | str:
        """The types to ask with; where a value is null the first that fits. A text says why none does."""
        if kinds not in self._schemas:
            known = {name: kind for name, kind in zip(self.columns, kinds, strict=True) if kind is not None}
            why: dict[str, Any] | str = ""
            for guess in self.condition.guesses(known):
                misfit = self.condition.fits(guess)
                if misfit is None:
                    why = guess
                    break
                why = why or misfit
            self._schemas[kinds] = why
        return self._schemas[kinds]

    def _ask(self, rows: Sequence[Sequence[Any]], schema: dict[str, Any]) -> list[Answer]:
        columns = zip(*rows, strict=True)
        try:
            frame = pl.DataFrame(
                [
                    pl.Series(name, [None if value is ABSENT else value for value in values], dtype=kind)
                    for (name, kind), values in zip(schema.items(), columns, strict=True)
                ]
            )
            answers: list[Answer] = self.condition.of(frame).to_list()
        except (UserError, UnicodeError) as error:
            if len(rows) == 1:
                return [str(error)]
            return [answer for row in rows for answer in self._ask([row], schema)]  # which of them is at fault
        return answers


def _kind(value: Any) -> Any:
    """The Polars type of a value, None for one that may be of any, or a text that says why it has none."""
    if value is None or value is ABSENT:
        return None
    if kind := _TYPES.get(type(value)):
        return kind
    if type(value) is int:
        if value in _INT64:
            return pl.Int64
        return pl.UInt64 if value in _UINT64 else "a number is beyond 64 bits"
    return f"a value is a {'list' if isinstance(value, list) else 'mapping' if isinstance(value, dict) else 'thing'}"
