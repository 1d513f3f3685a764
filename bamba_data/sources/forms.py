"""What a file seems to be, when it is not what the recipe says: told by its first bytes, with the way out.

Some beginnings are certain (parquet, zip, a web page): such a file is refused before its first record. Others only
explain records that turned out bad (a JSON array, records over several lines, lines that end with CR alone).
"""

import json

from bamba_data.errors import CorruptInput, WrongForm
from bamba_data.sources.compression import by_content

_CERTAIN: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a parquet file", "say `form: parquet`"),
    (b"PARE", "an encrypted parquet file", "decrypt it first"),
    (b"ARROW1\0\0", "an Arrow file", "write it as parquet"),
    (b"Obj\x01", "an Avro file", "write it as parquet or JSON lines"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "compressed with lz4, which is not read", "unpack it, or use zstd"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed with snappy, which is not read", "unpack it, or use zstd"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write it as parquet or JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "write its rows as parquet or JSON lines"),
    (b"%PDF-", "a PDF", "extract its text"),
    (b"\xff\xfe\0\0", "text in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
)
_LEAVE_OUT = "or leave this one out (--quarantine SOURCE/PATH, patterns allowed)"


def refuse_other_forms(head: bytes, url: str) -> None:
    """Raise if the first HEAD_BYTES of unpacked bytes are certainly no JSON lines. What a host sent in place of the
    file is a CorruptInput, a file of another form a WrongForm."""
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise CorruptInput(url, "is a web page: its host answered with that in place of the file", 0)
    if start.startswith(b"<?xml") and b"<error>" in head.lower():
        raise CorruptInput(url, "is an error message in XML: a store answered with that in place of the file", 0)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CorruptInput(url, "is a pointer of Git LFS, not the file that it stands for: git lfs pull", 0)
    if head[257:262] == b"ustar":
        raise WrongForm(url, "is a tar archive", f"unpack it, {_LEAVE_OUT}")
    for magic, what, way_out in _CERTAIN:
        if head.startswith(magic):
            raise WrongForm(url, f"is {what}", f"{way_out}, {_LEAVE_OUT}")


def refuse_other_than_parquet(head: bytes, url: str) -> None:
    """Raise if the first bytes of a file that cannot be read as parquet say what it is instead."""
    if compression := by_content(head):
        raise WrongForm(url, f"is compressed with {compression}", f"parquet is read at random: unpack it, {_LEAVE_OUT}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b'{"', b"[")):
        raise WrongForm(url, "looks like JSON", f"say `form: jsonl`, {_LEAVE_OUT}")
    if not head.startswith(b"PAR1"):
        refuse_other_forms(head, url)


def hint(head: bytes) -> str:
    """For a file whose records are bad: what its first bytes (unpacked; some KiB) look like and what to do, or ""."""
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    first, newline, rest = text.partition("\n")
    if text.startswith("[") and not _is_json(first):
        return "it looks like one JSON array, not like a record a line: jq -c '.[]' FILE > FILE.jsonl"
    if text.startswith("[") and text.lstrip("[ ").startswith("{"):
        return "its lines are JSON arrays, not objects: jq -c '.[]' FILE > FILE.jsonl"
    if "\r" in text and "\n" not in text and text.startswith("{"):
        return "its lines end with CR alone: tr '\\r' '\\n' < FILE > FILE.jsonl"
    if text.startswith("{") and not _is_json(first) and newline and _is_pretty(text):
        return "its records go over several lines (pretty-printed JSON): jq -c . FILE > FILE.jsonl"
    if text.startswith("{") and "}{" in first.replace(" ", "") and not _is_json(first):
        return "its records follow each other without a newline between them: jq -c . FILE > FILE.jsonl"
    if text.startswith(("{'", '{"')) and "'" in first and not _is_json(first) and _is_python(first):
        return "its records are written by Python's repr, not as JSON: use json.dumps"
    if text and text[0] not in "{[<" and (table := _table(first, rest)):
        return f"it looks like a table of {table}: write it as parquet or JSON lines"
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_pretty(text: str) -> bool:
    """The first lines are pieces of one record: the first is no record, the second begins a field or ends it."""
    second = text.split("\n")[1].strip()
    return text.split("\n")[0].strip() in ("{", "[") or second.startswith(('"', "}"))


def _is_python(line: str) -> bool:
    import ast

    try:
        return isinstance(ast.literal_eval(line.strip()), dict)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def _table(first: str, rest: str) -> str:
    second = rest.partition("\n")[0]
    for separator, name in (("\t", "tabs (TSV)"), (",", "commas (CSV)")):
        if first.count(separator) >= 1 and second.count(separator) >= first.count(separator):
            return name
    return ""
