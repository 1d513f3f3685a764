"""What a recipe's `where` and `transform` make of the documents of one file: each stays, perhaps with another text, or
becomes a `Reject` with its reason. `where` is asked first, of the text as the corpus has it.

    where_false      the condition is false; dropped
    where_null       it is unknown, because a value is null or the record has no such field; dropped, by its own count
    where_mismatch   it cannot be asked of these values, such as a text where it compares a number; a dead letter
    transform_none   the function gave None; dropped
    transform_error  it raised, or gave no text; a dead letter

A field that none of a file's first records has is a slip in the recipe, and refused.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from bamba_data.document import Document, Reject
from bamba_data.errors import WrongForm
from bamba_data.filtering.transform import Transform
from bamba_data.filtering.where import Answer, Where
from bamba_data.sources.columns import NOT_UTF8
from bamba_data.sources.fields import ABSENT, names_in
from bamba_data.tokenization.encode import reject

BATCH_ROWS = 256
BATCH_CHARS = 1 << 20
FIRST_ROWS = 1000  # of a file of lines: a field that none of them has is refused
_POLARS: dict[type | None, Any] = {int: pl.Int64, float: pl.Float64, str: pl.String, bool: pl.Boolean, None: None}


class Sieve:
    """Of one file. `columns` are what documents must have the values of."""

    def __init__(self, where: str | None, url: str, transform: Transform | None = None) -> None:
        self._where = None if where is None else Where(where)
        self._transform = transform
        self._url = url
        asked = self._where.columns if self._where else ()
        self._asked = len(asked)
        self.columns: tuple[str, ...] = tuple(dict.fromkeys([*asked, *(transform.columns if transform else ())]))
        self._given = [self.columns.index(name) for name in transform.columns] if transform else []
        self._missing = set(range(len(self.columns)))
        self._seen: set[str] = set()

    def refuse_types(self, types: Sequence[type | None]) -> None:
        """Raise WrongForm where columns of these types can never be compared as the condition says."""
        if self._where and (why := self._where.misfit([_POLARS[kind] for kind in types[: self._asked]])):
            raise WrongForm(
                self._url, f"where {self._where.condition.text!r}: {why}", "compare it otherwise, or CAST it"
            )

    def look(self, item: Document | Reject) -> None:
        """Take notice of which fields one of the first records has, whether it is read again or not."""
        if self._missing and isinstance(item, Document) and item.row < FIRST_ROWS:
            self._missing -= {n for n in self._missing if item.columns[n] is not ABSENT}
            if self._missing and item.line and len(self._seen) < 50:
                with contextlib.suppress(ValueError, RecursionError):
                    self._seen |= names_in(json.loads(item.line)).keys()

    def end_look(self) -> None:
        """Raise WrongForm for a field that none of them had."""
        if self._missing and self._seen:
            names = ", ".join(repr(self.columns[n]) for n in sorted(self._missing))
            raise WrongForm(
                self._url,
                f"none of its first records has a field {names}, which `where` or `transform` names",
                f"its fields are {', '.join(sorted(self._seen))}",
            )

    def sift(self, items: Iterable[Document | Reject]) -> Iterator[Document | Reject]:
        """The same records, in order."""
        if self._where is None and self._transform is None:
            yield from items
            return
        batch: list[Document | Reject] = []
        chars, looking = 0, True
        for item in items:
            self.look(item)
            if looking and item.row >= FIRST_ROWS:
                self.end_look()
                looking = False
            batch.append(item)
            chars += len(item.text) if isinstance(item, Document) else len(item.raw)
            if len(batch) >= BATCH_ROWS or chars >= BATCH_CHARS:
                yield from self.judged(batch)
                batch, chars = [], 0
        if looking:
            self.end_look()
        yield from self.judged(batch)

    def judged(self, batch: Sequence[Document | Reject]) -> Iterator[Document | Reject]:
        """The same of a few records, without a look at which fields they have."""
        documents = [item for item in batch if isinstance(item, Document)]
        answers: Iterator[Answer] = iter([True] * len(documents))
        if self._where is not None:
            answers = iter(self._where.answers([document.columns[: self._asked] for document in documents]))
        for item in batch:
            kept = _judged(item, next(answers)) if isinstance(item, Document) else item
            yield self._transformed(kept) if isinstance(kept, Document) else kept

    def _transformed(self, document: Document) -> Document | Reject:
        if self._transform is None:
            return document._replace(columns=())
        return self._transform.of(document, [document.columns[place] for place in self._given], self._url)


def _judged(document: Document, answer: Answer) -> Document | Reject:
    if answer is True:
        return document
    if answer is None:
        return reject(document, "where_null", "a value that `where` asks for is null or missing")
    if answer is False:  # most of a corpus, perhaps: without a copy of its text
        return Reject(document.row, "where_false", "", b"", 0, "", line=document.line)
    why = "a text is not UTF-8" if NOT_UTF8 in document.columns else answer
    return reject(document, "where_mismatch", why)
