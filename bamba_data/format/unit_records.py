"""What a unit leaves in the store on its way: a record for every finished part, and one for the whole unit.

    _bamba/units/<source>/<key>/part-00000.json     a hint for going on, checked against the input before it is used
    _bamba/units/<source>/<key>/unit.json           the truth, created once, after every input was read to its end

Both are sealed and say of which unit they are, so that one that is damaged, or lies in another's place, is never used.
Nothing here is data until a manifest lists it. pipelines writes them, and a sweep reads which files they name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from bamba_data.document import Ledger
from bamba_data.errors import CorruptManifest
from bamba_data.format.holdout_candidates import Candidate
from bamba_data.format.shard import Block, Footer
from bamba_data.records import Record
from bamba_data.storage.paths import checked
from bamba_data.storage.store import Store
from bamba_data.tokenization.conformance import Certificate


@dataclass(frozen=True, slots=True)
class StagedShard:
    """A shard that lies in the store and is data only once a manifest lists it. `sha256` is of the file, in hex;
    `tokens` are the sum over `blocks`."""

    path: str
    sha256: str
    size_bytes: int
    documents: int
    tokens: int
    blocks: list[Block]
    candidates: list[Candidate]
    footer: Footer


@dataclass(frozen=True, slots=True)
class StagedLetters:
    """A parquet file of dead letters."""

    path: str
    sha256: str
    size_bytes: int
    records: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a unit the next record would be read: position among its files, row in that file, and a digest
    of what of that file has been consumed (see unit.Prefix)."""

    file: int
    row: int
    prefix: str


@dataclass(frozen=True, slots=True)
class ReadInput:
    """An input that was consumed: `complete` unless a limit ended it early; then there is no sha256."""

    file: int
    sha256: str | None
    size_bytes: int | None
    complete: bool


@dataclass(slots=True)
class Sampled:
    """How much of the output was encoded a second time by the reference, and whether a part had to be redone."""

    documents: int = 0
    tokens: int = 0
    redone: int = 0

    def add(self, other: "Sampled") -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.redone += other.redone


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What wrote a part: versions by library, and the certificate of the backend that made its ids."""

    software: dict[str, str]
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Part:
    """The resumable piece of a unit: at most one shard and one file of dead letters, and its share of the
    account, by position of the file in the unit."""

    number: int
    end: Place
    backend: str
    shard: StagedShard | None
    letters: StagedLetters | None
    ledgers: dict[int, Ledger]
    inputs: list[ReadInput]
    sampled: Sampled
    made_by: MadeBy

    @property
    def files(self) -> list[StagedShard | StagedLetters]:
        return [file for file in (self.shard, self.letters) if file]


@dataclass(frozen=True)
class _Staged(Record):
    """In JSON the blocks of a shard stand column by column: their names would be most of the record otherwise."""

    MAX_BYTES = 64 << 20

    source: str
    key: str

    @classmethod
    def read_of(cls, store: Store, path: str, source: str, key: str) -> Self:
        """The record at `path`, of that unit and no other.

        Raises:
            CorruptManifest: it is damaged, or of another unit.
            UnsafePath: it names a file outside the dataset.
            FileNotFoundError: there is none.
        """
        record = cls.read(store, path)
        if (record.source, record.key) != (source, key):
            raise CorruptManifest(path, f"is the record of {record.source}/{record.key}, not of {source}/{key}")
        for file in record.files:
            checked(file.path)
        return record

    @property
    def files(self) -> list[StagedShard | StagedLetters]:
        """The files that the record names."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        return _with_blocks(super().fields(), lambda rows: {name: [row[name] for row in rows] for name in _BLOCK})

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any], where: str) -> Self:
        def by_row(columns: Any) -> list[dict[str, Any]]:
            rows = zip(*(columns[name] for name in _BLOCK), strict=True)
            return [dict(zip(_BLOCK, row, strict=True)) for row in rows]

        try:
            named = _with_blocks(fields, by_row)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptManifest(where, f"is not of format {cls.FORMAT}: {error}") from None
        return super().of_fields(named, where)


_BLOCK = tuple(Block.__dataclass_fields__)


def _with_blocks(fields: Mapping[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a record with the blocks of its shards in another form."""

    def part(raw: Any) -> Any:
        shard = raw["shard"]
        return raw if shard is None else {**raw, "shard": {**shard, "blocks": convert(shard["blocks"])}}

    return {
        **fields,
        **({"part": part(fields["part"])} if "part" in fields else {}),
        **({"parts": [part(raw) for raw in fields["parts"]]} if "parts" in fields else {}),
    }


@dataclass(frozen=True)
class PartRecord(_Staged):
    """A hint for going on: the part is finished."""

    FORMAT = "bamba-part/2"

    part: Part

    @property
    def files(self) -> list[StagedShard | StagedLetters]:
        return self.part.files


@dataclass(frozen=True)
class UnitRecord(_Staged):
    """The truth about a finished unit."""

    FORMAT = "bamba-unit/2"

    parts: list[Part]

    @property
    def files(self) -> list[StagedShard | StagedLetters]:
        return [file for part in self.parts for file in part.files]

    @property
    def inputs(self) -> list[ReadInput]:
        return [read for part in self.parts for read in part.inputs]

    @property
    def ledger(self) -> Ledger:
        total = Ledger()
        for part in self.parts:
            for ledger in part.ledgers.values():
                total.add(ledger)
        return total
