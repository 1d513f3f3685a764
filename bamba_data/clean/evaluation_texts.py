"""The texts that a model will be asked, of several tasks, in files: what must not be in its data.

    jsonl    an object a text, .jsonl or .ndjson
    parquet  a row a text, .parquet

with the field `text` and, if several tasks are in one file, `task`; without it the task is the name of the file. A
field that is none of these is refused: it could hold what was meant to be looked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from bamba_data.errors import UserError, one_line

_READERS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class EvaluationText(NamedTuple):
    """A text and the task that asks it."""

    task: str
    text: str


def read_texts(paths: Sequence[Path]) -> list[EvaluationText]:
    """The texts of all files, in their order.

    Raises:
        UserError: a file cannot be read, is empty, has other fields or an empty one; two files without a field `task`
            have the same name.
    """
    texts: list[EvaluationText] = []
    named_by: dict[str, Path] = {}
    for path in paths:
        frame = _frame(path)
        if "task" not in frame.columns:
            if other := named_by.get(path.stem):
                raise UserError(
                    f"--against {other} and {path}: both would be the task {path.stem!r}; rename one, or give both a "
                    "field task"
                )
            named_by[path.stem] = path
            frame = frame.with_columns(task=pl.lit(path.stem))
        texts += map(EvaluationText._make, frame.select("task", "text").iter_rows())
    return texts


def _frame(path: Path) -> pl.DataFrame:
    form = _READERS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"--against {path}: texts are in a file that is named .jsonl, .ndjson or .parquet")
    try:
        data = path.read_bytes()
        if form == "parquet":
            frame = pl.read_parquet(data)
        else:
            frame = pl.read_ndjson(data, infer_schema_length=None) if data.strip() else pl.DataFrame()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"--against {path}: cannot be read as {form}: {one_line(error)}") from None
    if set(frame.columns) not in ({"text"}, {"text", "task"}):
        raise UserError(
            f"--against {path}: has the fields {', '.join(frame.columns) or 'none'}; it must have text, and task or "
            "not: write what is to be looked for, question and answers, as one text"
        )
    for name in frame.columns:
        if frame.schema[name] != pl.String:
            raise UserError(f"--against {path}: field {name} is {frame.schema[name]}, it must be text")
        if without := int((frame[name].fill_null("") == "").sum()):
            raise UserError(
                f"--against {path}: field {name} is missing or empty in {without:,} of {len(frame):,} texts"
            )
    if not len(frame):
        raise UserError(f"--against {path}: has no text")
    return frame
