"""Conversations out of files, as lists of messages: what is odd about one is said with its place."""

import glob
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.errors import UserError, one_line

from .spec import ConversationSource

ROLES = ("system", "developer", "user", "assistant", "tool")
#: The names that ShareGPT's files give to roles.
SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
FORMS = {"role-content": ("role", "content"), "from-value": ("from", "value")}
#: What a template may read of a message beside role and content.
MORE_FIELDS = frozenset({"name", "tool_calls", "tool_call_id"})

Message = dict[str, Any]


class BadConversation(Exception):
    """No conversation that can be learned; the text says why, for counting."""


@dataclass(frozen=True)
class ConversationFile:
    """A file, read: where it lies, and its bytes."""

    url: str
    data: bytes


@dataclass(frozen=True)
class Row:
    """A line or row, as it is: `place` names it for people."""

    place: str
    content: Any


def read_files(source: ConversationSource) -> list[ConversationFile]:
    """All files of a source, in the order named, those of a pattern by name.

    Raises:
        UserError: A file is not there, cannot be read, or is neither .jsonl nor .parquet; or a pattern finds none.
    """
    files: list[ConversationFile] = []
    for pattern in source.files:
        try:
            fs, path = fsspec.core.url_to_fs(pattern)
            paths = sorted(fs.glob(path)) if glob.has_magic(path) else [path]
            found = [
                ConversationFile(fs.unstrip_protocol(at) if "://" in pattern else at, fs.cat_file(at)) for at in paths
            ]
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"conversations {pattern}: cannot be read ({one_line(error) or type(error).__name__})"
            ) from None
        if not found:
            raise UserError(f"conversations {pattern}: no file is there")
        files += found
    for file in files:
        if not file.url.endswith((".jsonl", ".parquet")):
            raise UserError(f"{file.url}: conversations are read from .jsonl and .parquet files, uncompressed")
    return files


def rows_of(file: ConversationFile) -> Iterator[Row]:
    """Every line or row of a file. A line that is no JSON is a row whose content is a `BadConversation`."""
    if file.url.endswith(".parquet"):
        try:
            with pq.ParquetFile(io.BytesIO(file.data)) as opened:
                number = 0
                for batch in opened.iter_batches():
                    for content in batch.to_pylist():
                        yield Row(f"{file.url}: row {number}", content)
                        number += 1
        except pa.ArrowException as error:
            raise UserError(f"{file.url}: no parquet file ({one_line(error)})") from None
        return
    for number, line in enumerate(file.data.split(b"\n"), 1):
        if not line.strip() and number > file.data.count(b"\n"):
            continue  # what stands after the last newline
        place = f"{file.url}: line {number}"
        try:
            yield Row(place, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield Row(place, BadConversation(f"is no JSON ({one_line(error, 80)})"))


def messages_of(row: Row, source: ConversationSource) -> tuple[list[Message], list[Any] | None]:
    """(messages with `role` and `content`, the tools that the row states).

    Raises:
        BadConversation: It is none; the text says what is the matter.
        UserError: The row is of the other form, or has no such column: that is a wrong setting, and no bad row.
    """
    content = row.content
    if isinstance(content, BadConversation):
        raise content
    if not isinstance(content, dict):
        raise BadConversation("is no object")
    if source.column not in content:
        raise UserError(f"{row.place}: has no {source.column!r}, it has {', '.join(sorted(content))}: say `column`")
    messages = content[source.column]
    if not isinstance(messages, list) or not messages:
        raise BadConversation("is empty: it has no message")
    tools = content.get("tools") or None
    return [_message(message, number, row.place, source.form) for number, message in enumerate(messages)], tools


def _message(raw: Any, number: int, place: str, form: str) -> Message:
    if not isinstance(raw, dict):
        raise BadConversation(f"message {number} is no object")
    stated = {key: value for key, value in raw.items() if value is not None}  # parquet has each field in each row
    role_field, text_field = FORMS[form]
    (other,) = (name for name in FORMS if name != form)
    if role_field not in stated and set(FORMS[other]) & set(stated):
        raise UserError(f"{place}: its messages are written as {', '.join(FORMS[other])}: say `form: {other}`")
    if missing := [name for name in (role_field,) if name not in stated]:
        raise BadConversation(f"message {number} has no {missing[0]!r}")
    role = stated[role_field]
    known: Sequence[str] = ROLES if form == "role-content" else tuple(SHAREGPT_ROLES)
    if role not in known:
        raise BadConversation(f"message {number} has the unknown role {str(role)[:40]!r}; known are {', '.join(known)}")
    if unknown := sorted(set(stated) - {role_field, text_field} - MORE_FIELDS):
        raise BadConversation(f"message {number} has {unknown[0]!r}, which is not known here and might matter")
    text = stated.get(text_field, "" if stated.get("tool_calls") else None)
    if not isinstance(text, str):
        raise BadConversation(f"message {number} has no text in {text_field!r}")
    if not text.strip() and not stated.get("tool_calls"):
        raise BadConversation(f"message {number} is empty")
    more = {key: value for key, value in stated.items() if key in MORE_FIELDS}
    return {"role": SHAREGPT_ROLES[role] if form == "from-value" else role, "content": text, **more}
