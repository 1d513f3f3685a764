"""YAML that people write, as plain values; what is not plain is one line that names the file, the line and the way out.

Plain: mappings with keys of text, lists, text, true and false, null, numbers of 64 bits. Read event by event, so that
neither depth nor anchors nor size can do harm: every limit is a number below. Anchors, aliases and `<<` mean what they
always mean. Dates, `1:30` and the like are the text that they look like.
"""

import copy
import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from bamba_data.canonical_json import MAX_INT
from bamba_data.errors import RecipeError, one_line

MAX_BYTES = 4 << 20  # some 40,000 names of files
MAX_DEPTH = 64
MAX_VALUES = 500_000  # with every alias written out

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+)")
_TWO_MEANINGS = re.compile(r"[-+]?0[0-9_]+")
_LIKE_A_NUMBER = re.compile(r"[-+]?0[xob][0-9a-fA-F_]*")
# YAML 1.1 takes 1e-6 for a string, because it has no dot; nobody else does.
_FLOAT = re.compile(r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys((form(word) for word in ("yes", "true", "on") for form in (str, str.title, str.upper)), True),
    **dict.fromkeys((form(word) for word in ("no", "false", "off") for form in (str, str.title, str.upper)), False),
}
_KINDS = {"int": int, "float": float, "bool": bool, "null": type(None)}
_MERGE = object()


def parse(text: str, where: str) -> Any:
    """The value that the text says. Raises RecipeError, whose message begins with `where`."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise RecipeError(f"{where}: {size:,} bytes of YAML, the limit is {MAX_BYTES:,}: is it the right file?")
    reader = _Reader(where)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        raise RecipeError(f"{where}: not YAML: {_said(error)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of an escape beyond Unicode, for one
        raise RecipeError(f"{where}: not YAML: {one_line(error, 300)}") from None
    except RecursionError:
        raise RecipeError(f"{where}: not YAML: nested too deep") from None
    return reader.value


def _said(error: yaml.MarkedYAMLError) -> str:
    parts = [error.problem, error.context]
    mark = error.problem_mark or error.context_mark
    told = ", ".join(" ".join(part.split())[:200] for part in parts if part)
    if "'\\t'" in told:
        told += " (indent with spaces)"
    return f"{told} in line {mark.line + 1}, column {mark.column + 1}" if mark else told


@dataclass
class _Open:
    """A mapping or list that has not ended. `merged` are the mappings of its `<<`; `pending` is a key that waits for
    its value."""

    value: Any
    line: int
    anchor: str | None
    began: int
    merged: list[Any] = field(default_factory=list)
    pending: Any = None
    has_key: bool = False


@dataclass
class _Anchored:
    value: Any
    values: int


class _Reader:
    """Takes the events of one document, in order."""

    def __init__(self, where: str) -> None:
        self.value: Any = None
        self._where = where
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}  # None: of a value that has not ended
        self._documents = self._values = self._line = 0

    def take(self, event: Any) -> None:
        self._line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse("a second document begins (---): one file says one thing")
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1)
            value = self._scalar(event)
            self._anchor(event.anchor, value, 1)
            self._put(value)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _begin(self, event: Any) -> None:
        if len(self._open) >= MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH}")
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", "tag:yaml.org,2002:map" if is_mapping else "tag:yaml.org,2002:seq"):
            self._refuse(f"could not determine a constructor for the tag {event.tag}: leave it out")
        if self._open and isinstance(self._open[-1].value, dict) and not self._open[-1].has_key:
            self._refuse(f"a key is a {'mapping' if is_mapping else 'list'}; keys are text")
        self._count(1)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open({} if is_mapping else [], self._line, event.anchor, self._values - 1))

    def _end(self) -> None:
        done = self._open.pop()
        for mapping in done.merged:
            for key, value in mapping.items():
                done.value.setdefault(key, value)
        self._anchor(done.anchor, done.value, self._values - done.began)
        self._put(done.value)

    def _put(self, value: Any) -> None:
        if not self._open:
            self.value = value
            return
        holder = self._open[-1]
        if isinstance(holder.value, list):
            holder.value.append(None if value is _MERGE else value)
        elif not holder.has_key:
            holder.pending, holder.has_key = self._key(value, holder.value), True
        elif holder.pending is _MERGE:
            mappings = value if isinstance(value, list) else [value]
            if not all(isinstance(mapping, dict) for mapping in mappings):
                self._refuse("<<: takes a mapping or a list of mappings")
            holder.merged += mappings
            holder.has_key = False
        else:
            holder.value[holder.pending] = value
            holder.has_key = False

    def _key(self, value: Any, there: dict[Any, Any]) -> Any:
        if value is _MERGE:
            return value
        if not isinstance(value, str):
            shown = {None: "null", True: "true", False: "false"}[value] if _is_word(value) else str(value)
            raise RecipeError(
                f"{self._where}: {shown}: Keys should be strings; quote it, if it is meant: '{shown}' "
                f"(line {self._line})"
            )
        if value in there:
            self._refuse(f"not YAML: key {value[:100]!r} stands twice")
        return value

    def _alias(self, name: str) -> None:
        if name not in self._anchors:
            self._refuse(f"*{name} has no &{name} before it")
        anchored = self._anchors[name]
        if anchored is None:
            self._refuse(f"&{name} holds itself")
        self._count(anchored.values)
        self._put(copy.deepcopy(anchored.value))  # a tree: what is set on one of them is not set on all

    def _anchor(self, name: str | None, value: Any, values: int) -> None:
        if name:
            self._anchors[name] = _Anchored(value, values)

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            self._refuse(f"more than {MAX_VALUES:,} values, with its aliases written out")

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, event.tag
        if event.implicit[0] and tag in (None, "!"):  # plain
            return self._plain(text)
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            value = self._plain(text)
            kind = tag.removeprefix("tag:yaml.org,2002:")
            if kind == "float" and type(value) is int:
                return float(value)
            if kind not in _KINDS or type(value) is not _KINDS[kind]:
                self._refuse(f"could not determine a constructor for the tag {tag} of {text[:50]!r}: leave it out")
            return value
        return self._text(text)

    def _plain(self, text: str) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if text == "<<":
            return _MERGE
        if _INTEGER.fullmatch(text):
            return self._integer(text)
        if _TWO_MEANINGS.fullmatch(text):
            self._refuse(
                f"{text[:50]} is octal to some and decimal to others: leave the 0 out, or quote it, if it is text"
            )
        if _LIKE_A_NUMBER.fullmatch(text):
            self._refuse(f"{text[:50]} begins as a number and is none: quote it, if it is text")
        if special := _SPECIAL.fullmatch(text):
            return math.nan if special[3] else -math.inf if special[1] == "-" else math.inf
        if _FLOAT.fullmatch(text) and len(text) <= 400:
            return float(text.replace("_", ""))
        return self._text(text)

    def _integer(self, text: str) -> int:
        digits = text.replace("_", "")
        # The length first: int() of a million digits is itself an attack.
        value = int(digits, 0) if len(digits) <= 70 and digits.lstrip("+-") not in _BARE else None
        if value is None and len(digits) <= 70:
            self._refuse(f"{text[:50]} begins as a number and is none: quote it, if it is text")
        if value is None or abs(value) > MAX_INT:
            self._refuse(f"integer {text[:24]}{'…' if len(text) > 24 else ''} is out of range: it must fit in 64 bits")
        return value

    def _text(self, text: str) -> str:
        if "\0" in text:
            self._refuse(f"text holds a NUL character: {text[:50]!r}")
        if text.isascii():
            return text
        try:  # JSON writes what is beyond 16 bits as a pair of surrogates; YAML reads the two one by one
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self._refuse(f"text holds a lone surrogate: {text[:50]!a}")

    def _refuse(self, why: str) -> NoReturn:
        raise RecipeError(f"{self._where}: {why} (line {self._line})")


_BARE = ("0x", "0o", "0b")


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)
