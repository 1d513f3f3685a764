"""Lists of duplicates that other tools wrote, read as they are: by the id that each document had in the inputs.

datatrove  what the `exclusion_writer` of a filter wrote: JSON lines of the documents that leave, with `id` and `text`
dolma      attributes, as `dolma dedupe` writes them: JSON lines of `id` and `attributes`; a document leaves whose named
           attribute has one span, from 0, with the whole number 1, which is how dolma marks a whole document
nemo       parquet with one column of ids to remove (NeMo Curator), where the ids are the documents' own, as text

A file, or a folder of such files and no others; JSON lines may be compressed. What names documents by a
number that only the tool's own run can resolve is refused: datatrove's `.remove`, NeMo's `_curator_dedup_id`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import polars as pl

from bamba_data import canonical_json
from bamba_data.canonical_json import sha256
from bamba_data.errors import UserError, one_line
from bamba_data.sources.decompress import inflate

from .document_list import DocumentList, Form, read_list

LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
SUFFIXES = {"datatrove": LINES, "dolma": LINES, "nemo": (".parquet",)}
#: The number that NeMo gives documents itself.
NEMO_NUMBER = "_curator_dedup_id"
#: Lines of attributes are much alike; beyond it a small file is there to fill memory.
MAX_RATIO = 1000


def read_any_list(
    path: Path, form: str = "own", attribute: str | None = None, source: str | None = None
) -> DocumentList:
    """The list in a file, or in a folder, of the form that is named.

    Args:
        path: the file, or the folder with all files of the list.
        form: `own` (see document_list.py), `datatrove`, `dolma` or `nemo`.
        attribute: of a list of dolma's, the one that marks the documents that leave.
        source: the list is of documents of this source; without it, of all.

    Raises:
        UserError: it is no such list, or names documents in a way that cannot be resolved; the file is named.
    """
    if form not in get_args(Form):
        raise UserError(f"--list-form is {form!r}: it can be {', '.join(get_args(Form))}")
    if (attribute is None) == (form == "dolma"):
        raise UserError(
            "--list-form dolma needs --list-attribute: an attribute can also be a score, or mark parts of texts"
            if form == "dolma"
            else f"--list-attribute is for --list-form dolma, the form here is {form}"
        )
    if form == "own":
        if source is not None:
            raise UserError("--list-source is for lists of other tools; a list of ours has a field source")
        return read_list(path)
    digests: list[list[str]] = []
    ids: list[str] = []
    seen: set[str] = set()
    for file in _files(path, form):
        try:
            data = file.read_bytes()
            digests.append([file.name, sha256(data)])
            ids += _ids_of(file, data, form, attribute or "", seen)
        except (OSError, ValueError, msgspec.MsgspecError, pl.exceptions.PolarsError) as error:
            raise UserError(f"{file}: cannot be read as a list of {form}: {one_line(error)}") from None
    if form == "dolma" and attribute not in seen:  # dolma leaves it out where a document is not marked
        raise UserError(f"{path}: no document has the attribute {attribute!r}; there are {sorted(seen) or 'none'}")
    if not ids:
        raise UserError(f"{path}: lists no document")
    entries = pl.DataFrame({"document_id": ids}).unique(maintain_order=True)
    if source is not None:
        entries = entries.select(pl.lit(source).alias("source"), "document_id")
    return DocumentList(("document_id",), entries, sha256(canonical_json.dumps({"files": digests, "mark": attribute})))


def _files(path: Path, form: str) -> list[Path]:
    """All files of a list; one of another kind beside them is refused, for it could be a part of it."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.suffix == ".remove":
            raise UserError(
                f"{file}: numbers documents as one run of datatrove read them, which nothing here can resolve. Give "
                "MinhashDedupFilter an exclusion_writer=JsonlWriter(FOLDER) and list FOLDER"
            )
        if not file.name.lower().endswith(SUFFIXES[form]):
            raise UserError(f"{file}: a list of {form} is named {', '.join(SUFFIXES[form])}")
    if not files:
        raise UserError(f"{path}: has no file")
    return files


def _ids_of(file: Path, data: bytes, form: str, attribute: str, seen: set[str]) -> list[str]:
    if form == "nemo":
        return _of_nemo(file, pl.read_parquet(data))
    if form == "datatrove":
        return list(_of_lines(file, data, _excluded))
    return list(_of_lines(file, data, lambda record: _marked(record, attribute, seen)))


def _of_lines(file: Path, data: bytes, pick: Callable[[Any], str | None]) -> Iterator[str]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(_inflated(file, data).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found = pick(decode(line))
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueError(f"line {number}: {one_line(error)}") from None
        if found is not None:
            yield found


def _inflated(file: Path, data: bytes) -> bytes:
    plain = inflate([data], str(file), MAX_RATIO, may_be_empty=True)
    return b"".join(plain)


def _excluded(record: Any) -> str:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or "attributes" in record:
        raise ValueError("is no document that datatrove left out: it has id and text")
    return _own_id(record)


def _marked(record: Any, attribute: str, seen: set[str]) -> str | None:
    """The id, if dolma marks the whole document."""
    marks = record.get("attributes") if isinstance(record, dict) else None
    if not isinstance(marks, dict):
        raise ValueError("is no line of attributes: it has id and attributes")
    seen.update(marks)
    name, spans = _own_id(record), marks.get(attribute, [])
    if spans == []:
        return None
    whole = (
        isinstance(spans, list)
        and len(spans) == 1
        and isinstance(spans[0], list)
        and len(spans[0]) == 3
        and all(type(number) is int for number in spans[0])
        and spans[0][0] == 0
        and spans[0][2] == 1
    )
    if not whole:
        raise ValueError(
            f"{attribute} of {name!r} is {spans!r:.80}: a whole document is marked by one span [0, length, 1]; scores "
            "and parts of documents are not dropped"
        )
    return name


def _own_id(record: dict[str, Any]) -> str:
    found = record.get("id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)  # as the sources do
    if not isinstance(found, str):
        raise ValueError("has no id")
    return found


def _of_nemo(file: Path, frame: pl.DataFrame) -> list[str]:
    if frame.width != 1:
        raise UserError(f"{file}: has the columns {', '.join(frame.columns)}; a list of NeMo has one, of ids")
    ids = frame.to_series()
    if ids.name == NEMO_NUMBER or ids.dtype != pl.String:
        raise UserError(
            f"{file}: column {ids.name} is {ids.dtype}, a number that a run of NeMo may have given the documents. List "
            "ids of their own as text: assign_id=False and id_field, or join the numbers with what NeMo read"
        )
    if ids.null_count():
        raise UserError(f"{file}: column {ids.name} is missing in {ids.null_count():,} of {len(ids):,} rows")
    return ids.to_list()
