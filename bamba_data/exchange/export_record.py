"""How far the export of a source is: one small sealed record beside its files, which a later run goes on from."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from bamba_data.errors import CorruptManifest, UserError
from bamba_data.records import Record

#: Readers of the arrow form take every folder for a dataset whose name has no "meta" in it.
META = "meta"


@dataclass(frozen=True)
class ExportRecord(Record):
    """An export of one source: of what, in which form, and how far.

    `manifest` and `identity` are of the version that is exported; `before` and `after` the ids around every document;
    `shards_done` of the source's `shards` are on the disk, in the first `file_bytes` bytes of each growing file;
    `documents` and `tokens` are what was written, with delimiters. `finished` is written last.
    """

    FORMAT = "bamba-export/1"
    MAX_BYTES: ClassVar[int] = 1 << 16

    form: str
    source: str
    manifest: str
    identity: str
    before: list[int]
    after: list[int]
    shards: int
    shards_done: int = 0
    documents: int = 0
    tokens: int = 0
    file_bytes: dict[str, int] = field(default_factory=dict)
    finished: bool = False

    @property
    def path(self) -> str:
        """Where it lies below the export's folder."""
        return record_path(self.source)

    def check_same(self, wanted: Self, out: Path) -> None:
        """Raise UserError if this is not the export that is wanted."""
        if self.form != wanted.form:
            raise UserError(
                f"{out}: holds an export of {self.source} to {self.form}, {wanted.form} is asked for: give another "
                "--out, or remove it"
            )
        if self.manifest != wanted.manifest:
            raise UserError(
                f"{out}: holds an export of {self.source} from manifest {self.manifest[:16]}, and that of the version "
                f"asked for is {wanted.manifest[:16]}: add --version {self.manifest[:16]} to go on with it, give "
                "another --out, or remove it"
            )
        if (self.before, self.after) != (wanted.before, wanted.after):
            raise UserError(
                f"{out}: holds an export of {self.source} with ids {self.before} before every document and "
                f"{self.after} after it, {wanted.before} and {wanted.after} are asked for: give another --out, or "
                "remove it"
            )
        if replace(self, shards_done=0, documents=0, tokens=0, file_bytes={}, finished=False) != wanted:
            raise UserError(f"{out}: holds another export of {self.source}: give another --out, or remove it")


def record_path(source: str) -> str:
    return f"{META}/export-{source}.json"


def read_record(out: Path, source: str) -> ExportRecord | None:
    """The record of a source's export; None where there is none. Raises CorruptManifest for a damaged one."""
    path = out / record_path(source)
    try:
        with path.open("rb") as file:
            data = file.read(ExportRecord.MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        return ExportRecord.parse(data, str(path))
    except CorruptManifest as error:
        raise type(error)(error.where, f"{error.detail}; remove {out} and export again") from None


def finished_records(out: Path) -> list[ExportRecord]:
    """Of every source whose export to this folder is finished, by name."""
    names = sorted(path.name for path in (out / META).glob("export-*.json"))
    sources = [name.removeprefix("export-").removesuffix(".json") for name in names]
    records = [record for source in sources if (record := read_record(out, source))]
    return [record for record in records if record.finished]
