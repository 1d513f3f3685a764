"""Which columns of a parquet file hold its text and its ids: found by name, also inside structs, of any text type."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bamba_data.errors import WrongForm
from bamba_data.sources.base import TextRule

_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)


@dataclass(frozen=True)
class Column:
    """`name` is what the rule calls it, and the path by which it is read; `steps` lead to it from the column `top`."""

    name: str
    top: str
    steps: tuple[str, ...]
    kind: pa.DataType

    def of(self, batch: pa.RecordBatch) -> pa.Array:
        array = batch.column(self.top)
        for step in self.steps:
            array = pc.struct_field(array, step)  # null where the struct is
        return array


@dataclass(frozen=True)
class Columns:
    """`texts`: for every text that is joined, the columns that may hold it, the first one first. `asked`: what filters
    asked for."""

    texts: tuple[tuple[Column, ...], ...]
    id: Column | None
    asked: tuple[Column, ...] = ()

    @classmethod
    def of(cls, schema: pa.Schema, rule: TextRule, url: str, asked: Sequence[str] = ()) -> "Columns":
        """Raises WrongForm for a file that has not the columns of the rule, or has other than text in them; or has not
        those that filters `asked` for, or in them other than numbers, texts, and true or false."""
        texts = []
        for names in rule.texts:
            there = [column for name in names if (column := _find(schema, name, url))]
            if not there:
                asked = " or ".join(map(repr, names))
                raise WrongForm(url, f"has no column {asked}", _way_out(schema))
            if strange := next((column for column in there if not _is_text(column.kind)), None):
                raise WrongForm(url, f"column {strange.name!r} is {strange.kind}, not text", _way_out(schema))
            texts.append(tuple(there))
        found_id = None
        if rule.id_field is not None:
            with contextlib.suppress(WrongForm):  # two columns of that name: ids are made
                found_id = _find(schema, rule.id_field, url)
        if found_id and not (_is_text(found_id.kind) or pa.types.is_integer(found_id.kind)):
            found_id = None
        return cls(tuple(texts), found_id, tuple(_asked(schema, name, url) for name in asked))

    @property
    def paths(self) -> list[str]:
        """What to read."""
        every = [column for columns in self.texts for column in columns] + ([self.id] if self.id else [])
        return list(dict.fromkeys(column.name for column in [*every, *self.asked]))


def text_columns(schema: pa.Schema) -> list[str]:
    """The columns that could be named as text, nested ones with dots."""
    return [name for name, kind in _leaves(schema) if _is_text(kind) and not pa.types.is_null(kind)]


def _way_out(schema: pa.Schema) -> str:
    return (
        f"its text columns are {text_columns(schema)} of {schema.names}: name one with text.fields or text.text_field"
    )


def _asked(schema: pa.Schema, name: str, url: str) -> Column:
    column = _find(schema, name, url)
    if column is None:
        have = ", ".join(leaf for leaf, _ in _leaves(schema))
        raise WrongForm(url, f"has no column {name!r}, which `where` or `transform` names", f"its columns are {have}")
    if not (_is_text(column.kind) or _is_plain(column.kind)):
        raise WrongForm(
            url,
            f"column {name!r} is {column.kind}",
            "`where` and `transform` read numbers (of at most 64 bits), texts, and true or false: name another column",
        )
    return column


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _find(schema: pa.Schema, name: str, url: str) -> Column | None:
    count = schema.names.count(name)
    if count > 1:
        raise WrongForm(url, f"has two columns {name!r}", "write it anew with names that differ")
    if count == 1:
        return Column(name, name, (), schema.field(name).type)
    top, *steps = name.split(".")
    if not steps or schema.names.count(top) != 1:
        return None
    kind = schema.field(top).type
    for step in steps:
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return None
        kind = kind.field(kind.get_field_index(step)).type
    return Column(name, top, tuple(steps), kind)


def _leaves(fields: Any, prefix: str = "") -> list[tuple[str, pa.DataType]]:
    leaves: list[tuple[str, pa.DataType]] = []
    for field in fields:
        if pa.types.is_struct(field.type):
            leaves += _leaves([field.type.field(n) for n in range(field.type.num_fields)], f"{prefix}{field.name}.")
        else:
            leaves.append((f"{prefix}{field.name}", field.type))
    return leaves


def _is_text(kind: pa.DataType) -> bool:
    """A column of the type null is text, too: a writer that met only nulls knew no better."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_null(kind) or any(check(kind) for check in _TEXT)


def plain_bytes(column: pa.Array) -> list[bytes | None]:
    """A text column as bytes: Arrow does not check UTF-8, so the caller does, text by text."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):  # each value once in memory, however many rows say it
        said = plain_bytes(column.dictionary)
        return [None if index is None else said[index] for index in column.indices.to_pylist()]
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values


def ids(column: pa.Array) -> Sequence[str | int | None]:
    """Ids; None where there is none, or one that is not UTF-8."""
    if pa.types.is_integer(column.type):
        numbers: list[str | int | None] = column.to_pylist()
        return numbers

    def text(raw: bytes | None) -> str | None:
        with contextlib.suppress(UnicodeDecodeError):
            return None if raw is None else raw.decode()
        return None

    return [text(raw) for raw in plain_bytes(column)]


NOT_UTF8 = object()  # in place of a text that is none


def values(column: pa.Array) -> list[Any]:
    """Of a column that filters asked for: numbers, texts, bools, None; NOT_UTF8 where a text is not."""
    if _is_plain(column.type):
        plain: list[Any] = column.to_pylist()
        return plain

    def text(raw: bytes | None) -> Any:
        try:
            return None if raw is None else raw.decode()
        except UnicodeDecodeError:
            return NOT_UTF8

    return [text(raw) for raw in plain_bytes(column)]


def python_type(kind: pa.DataType) -> type | None:
    """What `values` gives of a column of this type; None where only nulls."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_boolean(kind):
        return bool
    return int if pa.types.is_integer(kind) else float if pa.types.is_floating(kind) else str
