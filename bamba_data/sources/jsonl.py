"""JSON lines in, documents out: only the id and text fields are decoded, the rest of a record is skipped.

The fast path is a typed decoder; what it refuses is looked at again by the standard library, which either finds
a document after all (a NaN in the metadata, a byte-order mark) or the reason why there is none.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.recipe import BadInput
from bamba_data.sources.base import Source, TextRule
from bamba_data.sources.decompress import inflate, peek
from bamba_data.sources.fields import ABSENT, first_present, look_up
from bamba_data.sources.forms import refuse_other_forms
from bamba_data.sources.json_nesting import MAX_DEPTH, is_deeper, with_room
from bamba_data.sources.lines import Line, read_lines


def lines(
    chunks: Iterable[bytes],
    url: str,
    source: Source,
    rules: BadInput,
    note: Callable[[str], None] = lambda name: None,
) -> Iterator[Line]:
    """The lines of a file, however it is compressed. What is odd about the file as a whole is told to `note`. Raises
    CorruptInput, InputTooLarge, or WrongForm for a file that is certainly none of lines."""
    plain = inflate(
        chunks,
        url,
        rules.max_inflate_ratio,
        compression=source.compression,
        max_window_bytes=rules.max_window_bytes,
        may_be_empty=rules.empty_files == "keep",
        note=note,
    )
    head, plain = peek(plain)
    refuse_other_forms(head, url)
    yield from read_lines(plain, rules.max_line_bytes)


def parser(
    rule: TextRule, path: str, max_line_bytes: int, asked: Sequence[str] = ()
) -> Callable[[Line], Document | Reject]:
    """What turns each line of the file `path` into a document, with the values of the fields that are `asked` for
    (ABSENT where it has none), or into the reason why it is none."""
    read_fields = _plain_reader(rule) if _is_plain(rule) and not asked else _general_reader(rule, asked)

    def parse(line: Line) -> Document | Reject:
        if line.whole_sha256:
            detail = f"{line.whole_bytes:,} bytes, the limit is {max_line_bytes:,} (bad_input.max_line_bytes)"
            return _reject(line, "line_too_long", detail)
        try:
            fields = read_fields(line.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return look_closer(line)
        # Arrays and objects are written outside of texts, and every character of a text takes a byte of the line or
        # more: most lines have so few other bytes that they need not be searched for brackets.
        if fields is None or (len(line.data) - sum(map(len, fields[0])) > MAX_DEPTH and is_deeper(line.data)):
            return look_closer(line)
        return _document(line, rule, path, *fields)

    def look_closer(line: Line) -> Document | Reject:
        if is_deeper(line.data):
            return _reject(line, "bad_json", f"nested deeper than {MAX_DEPTH}")
        try:
            fields = with_room(read_fields, line.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            fields = None
        if fields is None:
            return _second_look(line, rule, path, asked)
        return _document(line, rule, path, *fields)

    return parse


def _document(
    line: Line,
    rule: TextRule,
    path: str,
    parts: list[str],
    found_id: Any,
    notes: tuple[str, ...],
    cells: tuple[Any, ...],
) -> Document:
    text = parts[0] if len(parts) == 1 else rule.join.join(parts)
    if isinstance(found_id, str):
        return Document(line.row, found_id, text, line.data, notes, cells)
    if isinstance(found_id, int) and not isinstance(found_id, bool):
        return Document(line.row, str(found_id), text, line.data, (*notes, "id_not_string"), cells)
    if rule.id_field is not None:
        notes = (*notes, "id_made")
    return Document(line.row, f"{path}#{line.row}", text, line.data, notes, cells)


#: The texts, the id, the notes and the fields asked for of a line, or None for one that needs a second look.
_Found = tuple[list[str], Any, tuple[str, ...], tuple[Any, ...]]
_Reader = Callable[[bytes], _Found | None]


def _is_plain(rule: TextRule) -> bool:
    """One name for every text, and no dots: what a typed decoder does by itself."""
    names = [*(name for names in rule.texts for name in names), rule.id_field or ""]
    return all(len(names) == 1 for names in rule.texts) and not any("." in name for name in names)


def _plain_reader(rule: TextRule) -> _Reader:
    """Of the fields that we need, all others skipped unread."""
    names = {f"t{number}": name for number, (name,) in enumerate(rule.texts)}
    text_fields, has_id = list(names), rule.id_field is not None
    fields: list[Any] = [(field, str) for field in names]
    if rule.id_field is not None:
        fields.append(("id", Any, None))
        names["id"] = rule.id_field
    decode = msgspec.json.Decoder(msgspec.defstruct("Record", fields, rename=names, gc=False)).decode

    def read(data: bytes) -> _Found:
        record: Any = decode(data)
        return [getattr(record, field) for field in text_fields], record.id if has_id else None, (), ()

    def read_one(data: bytes) -> _Found:
        record: Any = decode(data)
        return [record.t0], record.id, (), ()

    return read_one if has_id and len(text_fields) == 1 else read


def _general_reader(rule: TextRule, asked_too: Sequence[str] = ()) -> _Reader:
    """With alternatives and nested fields: all that could hold one is decoded."""
    asked = [name for names in rule.texts for name in names] + ([rule.id_field] if rule.id_field else [])
    asked += asked_too
    tops = sorted({*asked, *(name.partition(".")[0] for name in asked)})
    names = {f"f{number}": name for number, name in enumerate(tops)}
    fields: list[Any] = [(field, Any, ABSENT) for field in names]
    decode = msgspec.json.Decoder(msgspec.defstruct("Record", fields, rename=names, gc=False)).decode
    field_of = {name: field for field, name in names.items()}

    def cells(get: Callable[[str], Any]) -> tuple[Any, ...]:
        return tuple(look_up(get, name) for name in asked_too)

    def read(data: bytes) -> _Found | None:
        record: Any = decode(data)

        def get(name: str) -> Any:
            return getattr(record, field_of[name], ABSENT)

        parts, notes = [], []
        for alternatives in rule.texts:
            name, text = first_present(get, alternatives)
            if not isinstance(text, str):
                return None
            parts.append(text)
            notes += [_other_name(name)] if name != alternatives[0] else []
        return parts, look_up(get, rule.id_field) if rule.id_field else None, tuple(notes), cells(get)

    return read


def _other_name(name: str) -> str:
    return f"text_in:{name}"


def _second_look(line: Line, rule: TextRule, path: str, asked: Sequence[str]) -> Document | Reject:
    try:
        record = with_room(lambda data: json.loads(data.decode("utf-8-sig", errors="surrogatepass")), line.data)
    except UnicodeDecodeError as error:
        return _reject(line, "bad_utf8", f"{error.reason} at byte {error.start} of the line")
    except ValueError as error:
        return _reject(line, "bad_json", str(error))
    if not isinstance(record, dict):
        return _reject(line, "not_an_object", f"a JSON {type(record).__name__}")
    fields: dict[str, Any] = record

    def get(name: str) -> Any:
        return fields.get(name, ABSENT)

    parts, notes = [], ["lenient_json"]
    for alternatives in rule.texts:
        name, part = first_present(get, alternatives)
        if part is ABSENT:
            return _reject(line, "missing_text", f"no field {' or '.join(map(repr, alternatives))}")
        if part is None:
            return _reject(line, "missing_text", f"{name!r} is null")
        if not isinstance(part, str):
            return _reject(line, "text_not_string", f"{name!r} is a JSON {type(part).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in part):
            return _reject(line, "lone_surrogate", f"in {name!r}")
        parts.append(part)
        notes += [_other_name(name)] if name != alternatives[0] else []
    found_id = look_up(get, rule.id_field) if rule.id_field is not None else None
    if isinstance(found_id, str) and any("\ud800" <= character <= "\udfff" for character in found_id):
        found_id = None
    cells = tuple(look_up(get, name) for name in asked)
    return _document(line, rule, path, parts, found_id, tuple(notes), cells)


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
