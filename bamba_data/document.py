"""What flows from sources to shards: a `Document`, or a `Reject` where a record is none.

A source yields them in file order, one for every record, so that read = documents + rejects, always.
"""

from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Action = Literal["keep", "drop", "dead_letter"]

#: Why a record did not become a row, and what happens to it unless the recipe's `bad_input` says otherwise.
#: A dead letter is counted, kept with its raw bytes, and charged to the error budget; a drop is only counted.
REASONS: dict[str, Action] = {
    "bad_json": "dead_letter",
    "bad_utf8": "dead_letter",
    "not_an_object": "dead_letter",
    "missing_text": "dead_letter",
    "text_not_string": "dead_letter",
    "lone_surrogate": "dead_letter",
    "nul": "dead_letter",
    "duplicate_id": "dead_letter",
    "line_too_long": "dead_letter",
    "document_too_large": "dead_letter",
    "empty_text": "drop",
}

#: Why a document that is sound left all the same: a recipe's `where` or `transform` (see filtering/).
FILTERED: dict[str, Action] = {
    "where_false": "drop",
    "where_null": "drop",
    "where_mismatch": "dead_letter",
    "transform_none": "drop",
    "transform_error": "dead_letter",
}

#: Those of them by which a recipe says what it wants: they are no fault, and nothing else can become of them.
WANTED = frozenset({"where_false", "transform_none"})

#: Reasons whose text could also be kept as it is.
KEEPABLE = frozenset({"nul", "duplicate_id"})

#: How much of a rejected record's raw bytes is kept; a longer one is cut, its length and sha256 stay whole.
RAW_BYTES = 1 << 20


class Document(NamedTuple):
    """One text of a file: `row` counts its records (lines, parquet rows) from 0; `line` holds the raw bytes
    where the form has such (JSON lines), else b"". `notes` are tolerated oddities, to be counted; `columns`
    the values of those that filters asked for."""

    row: int
    id: str
    text: str
    line: bytes = b""
    notes: tuple[str, ...] = ()
    columns: tuple[Any, ...] = ()


class Reject(NamedTuple):
    """A record that is no document: where it is, why, and its raw bytes up to RAW_BYTES.

    `offset` is the byte offset in the inflated file, -1 where the form has none. `line` is what the file's
    running digest covers, when that is not `raw`: for a line too long to hold, its sha256.
    """

    row: int
    reason: str
    detail: str
    raw: bytes
    raw_bytes: int
    raw_sha256: str
    offset: int = -1
    line: bytes = b""


@dataclass(slots=True)
class Ledger:
    """The account of one file, or of many: read = kept + dropped + dead-lettered, by reason.

    `tokens` and `text_bytes` (UTF-8) are of kept documents; `notes` are tolerated oddities of kept ones.
    """

    read: int = 0
    kept: int = 0
    tokens: int = 0
    text_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    dead_lettered: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        return self.read == self.kept + sum(self.dropped.values()) + sum(self.dead_lettered.values())

    @property
    def bad(self) -> int:
        """Records charged to the error budget."""
        return sum(self.dead_lettered.values())

    def book(self, item: Document | Reject, outcome: Sized | Reject, action: Callable[[str], Action]) -> Action:
        """Count one record. `outcome` is its token ids, or why it has none; `action` says what the rules do then.

        Returns what became of the record, "keep" if it became a row.
        """
        self.read += 1
        if isinstance(outcome, Reject):
            is_drop = action(outcome.reason) == "drop"
            counts = self.dropped if is_drop else self.dead_lettered
            counts[outcome.reason] = counts.get(outcome.reason, 0) + 1
            return "drop" if is_drop else "dead_letter"
        assert isinstance(item, Document)
        self.kept += 1
        self.tokens += len(outcome)
        self.text_bytes += len(item.text) if item.text.isascii() else len(item.text.encode())
        for note in item.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        return "keep"

    def add(self, other: "Ledger") -> None:
        self.read += other.read
        self.kept += other.kept
        self.tokens += other.tokens
        self.text_bytes += other.text_bytes
        for mine, theirs in (
            (self.dropped, other.dropped),
            (self.dead_lettered, other.dead_lettered),
            (self.notes, other.notes),
        ):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
