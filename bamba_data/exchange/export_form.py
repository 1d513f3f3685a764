"""What a format of export is to the export itself: it takes blocks of documents, and says what is safe on the disk."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from bamba_data.format.dataset import Dataset

from .export_record import ExportRecord
from .token_blocks import SourceShard, TokenBlock


class Written(NamedTuple):
    """What was written of a shard: documents, and ids with delimiters."""

    documents: int
    tokens: int


class ExportForm(Protocol):
    """One source in one format.

    `default_delimiters` is one of tokenization.delimiters.KINDS, or None where the caller must say which.
    """

    name: str
    with_lineage: bool
    default_delimiters: str | None

    def __init__(self, out: Path, record: ExportRecord, dataset: Dataset) -> None: ...

    @property
    def results(self) -> list[Path]:
        """What is there in the end, files or a folder."""

    def open(self, record: ExportRecord, resources: ExitStack) -> None:
        """Go on where `record` says."""

    def write(self, shard: SourceShard, blocks: Iterator[TokenBlock]) -> Written:
        """The next shard."""

    def sync(self) -> dict[str, int]:
        """Put all that was written on the disk. What each growing file has, in bytes, by its path below the folder."""

    def finish(self, record: ExportRecord) -> None:
        """Put all in place, once every shard is written; called again after a kill."""

    def tidy(self) -> None:
        """What is left to do when the record says that it is finished; called again by every later run."""
