"""A condition on one document: SQL as Polars has it, over named columns, parsed once and refused if it is none.

Only what can be said of a document by itself is taken: comparisons, arithmetic, functions of texts and numbers. What
looks at other documents (AVG, COUNT, OVER), at the clock, or at other tables would depend on how documents come
together in memory, and Polars would not complain.
"""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import polars as pl

from bamba_data.errors import UserError, one_line

#: The types that a column of unknown type may have.
KINDS = (pl.Int64, pl.String, pl.Boolean, pl.Float64)
MAX_GUESSES = 1024  # of types together, before an expression is believed to fit some of them
MAX_CHARS = 10_000
MAX_PARTS = 200  # parsers recurse, Polars' own too, and where their stack ends the process may end
FAILURES = (
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    *(UnicodeError, OverflowError, TypeError, ValueError, RecursionError),
)

_NODES = {"Column", "Literal", "BinaryExpr", "Cast", "Ternary", "Function"}
_FUNCTIONS = {"StringExpr", "Sql", "Pow", "Abs", "Coalesce", "FillNull", "MaxHorizontal", "MinHorizontal", "Floor"}
_FUNCTIONS |= {"Ceil", "Round", "Sign", "Negate", "Log", "Exp"}
_BOOLEANS = {"IsNull", "IsNotNull", "IsIn", "Not", "IsNan", "IsNotNan", "IsFinite", "IsInfinite", "IsBetween"}
_OF_ALL_ROWS = {"ConcatVertical"}
_OF_CLOCKS = {"Date", "Datetime", "Time", "Duration"}


class Condition:
    """An expression that is true, false or unknown (null) of a document.

    Attributes:
        text: as it was written.
        columns: that it names, each once, in order.
    """

    def __init__(self, text: str, schema: Mapping[str, Any] | None = None) -> None:
        """Parse it.

        Args:
            text: the SQL.
            schema: the columns that there are, with their Polars types; None where only the data tell.

        Raises:
            UserError: it is no condition on a document by itself, or names a column that there is not. The message
                begins with the text.
        """
        self.text = text
        self._where = repr(text if len(text) <= 200 else f"{text[:200]}…")
        over = ", ".join(schema) if schema else "columns"
        if len(text) > MAX_CHARS or _parts(text) > MAX_PARTS:
            raise UserError(
                f"{self._where}: has more than {MAX_CHARS:,} characters or {MAX_PARTS} parts: of many values say "
                "IN ('a', 'b')"
            )
        try:
            self.expression = pl.sql_expr(text)
            tree = json.loads(self.expression.meta.serialize(format="json"))
            self.columns = tuple(dict.fromkeys(self.expression.meta.root_names()))
            strange = next(_strange(tree), None)
        except FAILURES as error:
            raise UserError(f"{self._where}: {one_line(error)}; it is SQL over {over}, with texts in '…'") from None
        if strange == "FieldByName":
            raise UserError(f'{self._where}: of a field within another write the name in quotes: "metadata.score"')
        if strange:
            raise UserError(
                f"{self._where}: {strange} is not a matter of one document by itself: compare its {over}, with "
                "functions of texts and numbers"
            )
        if schema is not None and (unknown := [name for name in self.columns if name not in schema]):
            raise UserError(f"{self._where}: no column {', '.join(unknown)}; documents have {over}")
        if not self.columns or self._kinds_fit(schema) is False:
            raise UserError(f"{self._where}: is no condition on {over} that is true or false")

    def fits(self, schema: Mapping[str, Any]) -> str | None:
        """Why the expression cannot be had of columns of these Polars types; None where it can."""
        try:
            kind = pl.DataFrame(schema=dict(schema)).select(self.expression.alias("stays")).schema["stays"]
        except FAILURES as error:
            return one_line(error)
        return None if kind == pl.Boolean else f"it is {kind}, not true or false"

    def of(self, rows: pl.DataFrame) -> pl.Series:
        """Of every row whether it holds: Boolean [rows], null where it is unknown.

        Raises:
            UserError: it cannot be had of these values, such as a CAST of a text that is no number.
        """
        try:
            holds = rows.select(self.expression.alias("stays"))["stays"]
        except FAILURES as error:
            raise UserError(f"{self._where}: {one_line(error)}") from None
        if len(holds) != len(rows) or holds.dtype != pl.Boolean:
            raise UserError(f"{self._where}: does not say of each document whether it stays")
        return holds

    def guesses(self, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Types for all columns: those that are known, and for the others each of KINDS in turn."""
        options = [[known[name]] if name in known else KINDS for name in self.columns]
        for kinds in itertools.islice(itertools.product(*options), MAX_GUESSES):
            yield dict(zip(self.columns, kinds, strict=True))

    def _kinds_fit(self, schema: Mapping[str, Any] | None) -> bool:
        known = {} if schema is None else {name: schema[name] for name in self.columns}
        unknown = len(self.columns) - len(known)
        return any(self.fits(guess) is None for guess in self.guesses(known)) or len(KINDS) ** unknown > MAX_GUESSES


def columns_of(text: str, known: Collection[str] | None = None) -> tuple[str, ...]:
    """The columns that a condition names. Raises UserError for what is none."""
    return Condition(text, None if known is None else dict.fromkeys(known)).columns


def _parts(text: str) -> int:
    """No less than how deep the tree of an expression can be: brackets, operators, words that join or open parts."""
    words = text.upper().replace("(", " ").replace(")", " ").split()
    signs = sum(text.count(sign) for sign in "([+-*/%|<>=&^~")
    return signs + sum(word in ("NOT", "CASE", "AND", "OR", "XOR", "IS", "LIKE", "ILIKE", "BETWEEN") for word in words)


def _strange(node: Any) -> Iterator[str]:
    """The parts of Polars' own tree that are not of one row, by their names there."""
    if not isinstance(node, dict):
        yield str(node)  # "Len": how many rows there are
        return
    for name, said in node.items():
        if name not in _NODES:
            yield "AS" if name == "Alias" else name
        elif name == "Literal":
            scalar = said.get("Scalar", said) if isinstance(said, dict) else said
            if isinstance(scalar, dict) and (moments := _OF_CLOCKS & scalar.keys()):
                yield f"a {min(moments)}, such as the time of day,"
        elif name == "BinaryExpr":
            yield from _strange(said["left"])
            yield from _strange(said["right"])
        elif name == "Cast":
            yield from _strange(said["expr"])
        elif name == "Ternary":
            for part in ("predicate", "truthy", "falsy"):
                yield from _strange(said[part])
        elif name == "Function":
            yield from _strange_function(said["function"])
            for part in said["input"]:
                yield from _strange(part)


def _strange_function(function: Any) -> Iterator[str]:
    kind, detail = next(iter(function.items())) if isinstance(function, dict) else (function, "")
    detail = next(iter(detail)) if isinstance(detail, dict) else detail
    allowed = str(detail) in _BOOLEANS if kind == "Boolean" else kind in _FUNCTIONS and str(detail) not in _OF_ALL_ROWS
    if not allowed:
        yield f"{detail or kind}"
