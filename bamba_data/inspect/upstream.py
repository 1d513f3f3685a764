"""The inputs of a dataset, read again from upstream: a record as it stands there, and what the recipe makes of it.

A `transform` is code. It is run only where the user says in which folder its source lies, and only if that source is
the one that was locked, by its sha256, with its packages in the versions that were locked.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data.document import Document, Reject
from bamba_data.errors import BambaError, UserError
from bamba_data.filtering.sieve import Sieve
from bamba_data.filtering.transform import Transform
from bamba_data.filtering.transform_source import at_hand
from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import lock_path
from bamba_data.locking import lock as locks
from bamba_data.recipe import BadInput
from bamba_data.sources import jsonl
from bamba_data.sources.base import Source
from bamba_data.sources.parquet import ParquetRows
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts, LockedFile


@dataclass(frozen=True)
class Upstream:
    """Where a dataset's inputs are read. `moved` maps a source to the base URL where its files lie now; `code` is the
    folder of the sources of transforms."""

    dataset: Dataset
    fetcher: Fetcher
    moved: Mapping[str, str]
    code: Path | None = None

    def input(self, file: Mapping[str, Any]) -> "UpstreamInput":
        """The input of a row of the table of files. Raises UserError for one that holds no text."""
        lock = locks.loads(self.dataset.lock_json(), lock_path(self.dataset.version.lock))
        name, path = file["source"], file["path"]
        locked = next((candidate for candidate in lock.by_source.get(name, []) if candidate.path == path), None)
        if locked is None:
            raise UserError(f"the lock of this version does not list {name}/{path}")
        facts = Facts(file["size_bytes"], locked.facts.etag, file["sha256"])
        url = locked.url
        if name in self.moved:
            url, facts = f"{self.moved[name].rstrip('/')}/{path}", facts._replace(etag=None)
        source = lock.sources[name]
        if source.form in ("megatron", "datatrove"):
            raise UserError("it was imported from token files, which hold no text")
        rules = BadInput.model_validate(self.dataset.manifest.recipe["bad_input"])
        transform, why = at_hand(source.transform, self.code)
        sieve = Sieve(source.where, url, transform)
        return UpstreamInput(LockedFile(name, path, url, facts), source, rules, self.fetcher, sieve, transform, why)


@dataclass(frozen=True)
class UpstreamInput:
    """`transform` is that of the source, where it has one and its source is at hand; `why_none` says why it is not."""

    file: LockedFile
    source: Source
    rules: BadInput
    fetcher: Fetcher
    sieve: Sieve
    transform: Transform | None
    why_none: str

    def record(self, row: int) -> Document | Reject | None:
        """The record of this row, with the columns that the recipe asks for; None if there is none."""
        return next((item for item in self.records(row) if item.row == row), None)

    def records(self, start: int = 0) -> Iterator[Document | Reject]:
        """All records from a row on."""
        with ExitStack() as stack:
            if self.source.form == "parquet":
                opened = stack.enter_context(self.fetcher.open(self.file))
                asked = self.sieve.columns
                yield from ParquetRows(opened, self.source.text, self.file.path, self.file.url, asked=asked).read(start)
                return
            stream = stack.enter_context(self.fetcher.stream(self.file))
            parse = jsonl.parser(self.source.text, self.file.path, self.rules.max_line_bytes, self.sieve.columns)
            for line in jsonl.lines(stream.chunks(), self.file.url, self.source, self.rules):
                if line.row >= start:
                    yield parse(line)

    def as_built(self, record: Document | Reject) -> Document | Reject:
        """What `where` and `transform` make of a record. Raises UserError where the transform's source is missing."""
        if self.why_none and isinstance(record, Document):
            (kept,) = Sieve(self.source.where, self.file.url).judged([record])
            if isinstance(kept, Reject):
                return kept
            raise UserError(self.why_none)
        (made,) = self.sieve.judged([record])
        return made


#: What keeps an input from being read again.
UNREADABLE = (BambaError, OSError)
