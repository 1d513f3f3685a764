"""A list of documents that somebody wrote: as text, JSON lines or parquet.

text     a document id a line
jsonl    an object a line, .jsonl or .ndjson
parquet  a row a document, .parquet

with one of these keys, all text but `row`, and `source` beside it where only documents of that source are meant:

    document_id     every document that has it
    file, row       path of the input as the table of files has it, and line or row of it, from 0
    token_digest    sha256, in hex, of the token ids as they are stored

A field that is none of these is refused: it could be meant to choose. Lists of other tools: other_lists.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from bamba_data.canonical_json import sha256
from bamba_data.errors import UserError, one_line

from .choosing import DOCUMENTS

Form = Literal["own", "datatrove", "dolma", "nemo"]
KEYS = (("document_id",), ("file", "row"), ("token_digest",))
SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text", "": "text"}


@dataclass(frozen=True)
class DocumentList:
    """`entries` are distinct, with the columns `key` (and `source`, if it is one of them); `sha256` is of the file."""

    key: tuple[str, ...]
    entries: pl.DataFrame
    sha256: str


def read_list(path: Path) -> DocumentList:
    """The list in a file.

    Raises:
        UserError: it cannot be read, is empty, or has fields that are not those of a list; each is named.
    """
    form = SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: a list of documents is named .parquet, .jsonl, .ndjson or .txt")
    try:
        data = path.read_bytes()
        frame = _parsed(data, form)
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: cannot be read as a list of documents ({form}): {one_line(error)}") from None
    fields = set(frame.columns)
    keys = [key for key in KEYS if fields == set(key) or fields == {"source", *key}]
    if not keys:
        raise UserError(
            f"{path}: has the fields {', '.join(sorted(fields)) or 'none'}; a list has document_id, or file and row, "
            "or token_digest, and source beside it or not. Of another tool? Say --list-form"
        )
    (key,) = keys
    columns = [name for name in ("source", *key) if name in fields]
    for name in columns:
        kind, wanted = frame.schema[name], DOCUMENTS[name]
        if kind != wanted and not (wanted.is_integer() and kind.is_integer()):
            raise UserError(
                f"{path}: field {name} is {kind}, it must be {'whole numbers' if name == 'row' else 'text'}"
            )
        if frame[name].null_count():
            raise UserError(
                f"{path}: field {name} is missing in {frame[name].null_count():,} of {len(frame):,} entries"
            )
    if not len(frame):
        raise UserError(f"{path}: lists no document")
    if "row" in columns and frame["row"].min() < 0:  # type: ignore[operator]
        raise UserError(f"{path}: a row is below 0; rows count from 0")
    entries = frame.select(pl.col(name).cast(DOCUMENTS[name]) for name in columns).unique(maintain_order=True)
    return DocumentList(key, entries, sha256(data))


def _parsed(data: bytes, form: str) -> pl.DataFrame:
    if form == "parquet":
        return pl.read_parquet(data)
    if form == "jsonl":
        return pl.read_ndjson(data, infer_schema_length=None) if data.strip() else pl.DataFrame()
    lines = data.decode("utf-8-sig").splitlines()
    return pl.DataFrame({"document_id": pl.Series([line for line in lines if line], dtype=pl.String)})
