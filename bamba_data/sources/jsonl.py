"""JSON lines in, documents out: only the id and text fields are decoded, the rest of a record is skipped.

The fast path is a typed decoder; what it refuses is looked at again by the standard library, which either finds
a document after all (a NaN in the metadata, a byte-order mark) or the reason why there is none.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec

from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.lines import Line
from bamba_data.nesting import MAX_DEPTH, is_deeper, with_room
from bamba_data.sources.base import TextRule


def parser(rule: TextRule, path: str, max_line_bytes: int) -> Callable[[Line], Document | Reject]:
    """What turns each line of the file `path` into a document, or into the reason why it is none."""
    decode = _decoder(rule)
    count, has_id = len(rule.fields), rule.id_field is not None

    def parse(line: Line) -> Document | Reject:
        if line.whole_sha256:
            detail = f"{line.whole_bytes:,} bytes, the limit is {max_line_bytes:,} (bad_input.max_line_bytes)"
            return _reject(line, "line_too_long", detail)
        if is_deeper(line.data):
            return _reject(line, "bad_json", f"nested deeper than {MAX_DEPTH}")
        try:
            record = with_room(decode, line.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _second_look(line, rule, path)
        parts = [record.t0] if count == 1 else [getattr(record, f"t{i}") for i in range(count)]
        return _document(line, rule, path, parts, record.id if has_id else None, ())

    return parse


def _document(
    line: Line, rule: TextRule, path: str, parts: list[str], found_id: Any, notes: tuple[str, ...]
) -> Document:
    text = parts[0] if len(parts) == 1 else rule.join.join(parts)
    if isinstance(found_id, str):
        return Document(line.row, found_id, text, line.data, notes)
    if isinstance(found_id, int) and not isinstance(found_id, bool):
        return Document(line.row, str(found_id), text, line.data, (*notes, "id_not_string"))
    if rule.id_field is not None:
        notes = (*notes, "id_made")
    return Document(line.row, f"{path}#{line.row}", text, line.data, notes)


def _decoder(rule: TextRule) -> Any:
    """A decoder of the fields that we need, all others skipped unread."""
    fields: list[Any] = [(f"t{i}", str) for i in range(len(rule.fields))]
    names = {f"t{i}": name for i, name in enumerate(rule.fields)}
    if rule.id_field is not None:
        fields.append(("id", Any, None))
        names["id"] = rule.id_field
    record = msgspec.defstruct("Record", fields, rename=names, gc=False)
    return msgspec.json.Decoder(record).decode


def _second_look(line: Line, rule: TextRule, path: str) -> Document | Reject:
    try:
        record = with_room(lambda data: json.loads(data.decode("utf-8-sig", errors="surrogatepass")), line.data)
    except UnicodeDecodeError as error:
        return _reject(line, "bad_utf8", f"{error.reason} at byte {error.start} of the line")
    except ValueError as error:
        return _reject(line, "bad_json", str(error))
    if not isinstance(record, dict):
        return _reject(line, "not_an_object", f"a JSON {type(record).__name__}")
    parts = []
    for name in rule.fields:
        part = record.get(name)
        if part is None:
            return _reject(line, "missing_text", f"no field {name!r}" if name not in record else f"{name!r} is null")
        if not isinstance(part, str):
            return _reject(line, "text_not_string", f"{name!r} is a JSON {type(part).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in part):
            return _reject(line, "lone_surrogate", f"in {name!r}")
        parts.append(part)
    found_id = record.get(rule.id_field) if rule.id_field is not None else None
    if isinstance(found_id, str) and any("\ud800" <= character <= "\udfff" for character in found_id):
        found_id = None
    return _document(line, rule, path, parts, found_id, ("lenient_json",))


def _reject(line: Line, reason: str, detail: str) -> Reject:
    return Reject(
        row=line.row,
        reason=reason,
        detail=detail,
        raw=line.data[:RAW_BYTES],
        raw_bytes=line.whole_bytes,
        raw_sha256=line.whole_sha256 or hashlib.sha256(line.data).hexdigest(),
        offset=line.offset,
        line=line.key,
    )
