"""`transform` of a recipe, applied: a function of the user's own is given a document, and gives its text, or None.

    def clean(text: str, columns: dict[str, Any]) -> str | None

Its source is carried as bytes and loaded from these, so that every machine runs the file that was locked, wherever it
lies. The function must depend on its arguments alone: every 50th document is given to it twice, and two answers end the
build. What it raises is a dead letter of its document.
"""

import copy
import functools
import importlib.abc
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from bamba_data.canonical_json import sha256
from bamba_data.document import Document, Reject
from bamba_data.errors import RecipeError, UserError, one_line
from bamba_data.sources.base import TransformRule
from bamba_data.sources.columns import NOT_UTF8
from bamba_data.sources.fields import ABSENT
from bamba_data.tokenization.encode import reject

TWICE_EVERY = 50  # documents
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

Function = Callable[[str, dict[str, Any]], Any]


class Transform:
    """A rule with its function, loaded."""

    def __init__(self, rule: TransformRule, code: bytes) -> None:
        """`code` is the source of the rule's module.

        Raises:
            RecipeError: it is not the source that was locked, cannot be imported, or has no such function.
        """
        if rule.sha256 != sha256(code):
            raise RecipeError(f"transform {rule}: the source at hand has sha256 {sha256(code)[:16]}")
        self.rule = rule
        self._function, self._file = _loaded(rule.module, rule.name, code)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.rule.columns)

    def of(self, document: Document, values: Sequence[Any], where: str) -> Document | Reject:
        """The document with its new text, or why it has none.

        Args:
            document: As the corpus has it.
            values: Of the rule's columns, in their order.
            where: What errors call its file.

        Raises:
            UserError: The function gave two answers for one document.
        """
        if NOT_UTF8 in values:
            return reject(document, "transform_error", "a text in a column is not UTF-8")
        answer = self._answer(document.text, values)
        if document.row % TWICE_EVERY == 0 and (again := self._answer(document.text, values)) != answer:
            raise UserError(
                f"{where}: row {document.row:,}: transform {self.rule.function} gave two answers for one document "
                f"({_short(answer)}, then {_short(again)}): it must depend on its arguments alone, not on the clock, "
                "on random numbers, or on documents before"
            )
        if isinstance(answer, _Failed):
            return reject(document, "transform_error", answer.detail)
        if answer is None:  # perhaps most of a corpus: without a copy of its text
            return Reject(document.row, "transform_none", "", b"", 0, "", line=document.line)
        return document._replace(text=answer, columns=())

    def _answer(self, text: str, values: Sequence[Any]) -> "str | _Failed | None":
        # A copy each: what the function does to them is nobody else's.
        given = {
            name: None if value is ABSENT else copy.deepcopy(value)
            for name, value in zip(self.columns, values, strict=True)
        }
        try:
            answer = self._function(text, given)
        except MemoryError:
            raise  # the machine's, not the document's
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a function of somebody else's raises
            frames = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(frames) if frame.filename == self._file), None)
            # Without addresses of objects: one document has one dead letter, on every machine.
            said = _ADDRESS.sub("", one_line(error))
            return _Failed(f"{type(error).__name__}: {said} (line {line} of {self._file})")
        if answer is None:
            return None
        if not isinstance(answer, str):
            return _Failed(f"it gave {type(answer).__name__}, not a text or None")
        if any("\ud800" <= character <= "\udfff" for character in answer):
            return _Failed("its text has half of a character (a lone surrogate)")
        return str(answer)


class _Failed(NamedTuple):
    """Why there is no answer."""

    detail: str


def _short(answer: "str | _Failed | None") -> str:
    return answer.detail if isinstance(answer, _Failed) else repr(answer[:40] if answer else answer)


@functools.lru_cache(maxsize=64)
def _loaded(module: str, name: str, code: bytes) -> tuple[Function, str]:
    """The function, and what tracebacks call its file. Loaded once in a process."""
    loader = _FromBytes(code, f"{module.rpartition('.')[2]}.py")
    spec = importlib.util.spec_from_loader(f"_bamba_transform_{sha256(code)[:16]}", loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    made.__package__ = module.rpartition(".")[0]
    sys.modules[spec.name] = made  # dataclasses look for the module of a class there
    try:
        loader.exec_module(made)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a module of somebody else's raises
        sys.modules.pop(spec.name, None)
        raise RecipeError(
            f"transform {module}:{name}: its module cannot be imported ({type(error).__name__}: {one_line(error)})"
        ) from None
    function = _function_of(made, name)
    if function is None:
        raise RecipeError(f"transform {module}:{name}: {module} has no function {name}")
    return function, loader.file


def _function_of(module: ModuleType, name: str) -> Function | None:
    found = getattr(module, name, None)
    return found if callable(found) and not isinstance(found, type) else None


class _FromBytes(importlib.abc.InspectLoader):
    """A module whose source is at hand; `file` is what tracebacks call it."""

    def __init__(self, code: bytes, file: str) -> None:
        self._code, self.file = code, file

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._code)

    def get_code(self, fullname: str) -> Any:
        return compile(self._code, self.file, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return False
