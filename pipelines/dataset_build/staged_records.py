"""What a unit leaves in the store on its way: a record for every finished part, and one for the whole unit.

Part records are hints for going on, checked against the input before they are used, and may be overwritten.
The unit record is the truth: it is created once, after every input of the unit was read to its end and verified,
and a second, different one is an error. Nothing here is data until a manifest lists it.

Both are sealed, and say of which unit they are: one that is damaged, or lies in another's place, is never used. A
unit is a pure function, so its damaged record is set aside and made anew.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from bamba_data.canonical_json import sha256
from bamba_data.document import Ledger
from bamba_data.errors import BambaError, CorruptManifest, NotReproducible
from bamba_data.format.holdout_candidates import Candidate
from bamba_data.format.shard import Block, Footer
from bamba_data.records import seal, unseal
from bamba_data.storage.paths import checked
from bamba_data.storage.store import Store
from bamba_data.tokenization.conformance import Certificate

FOLDER = "_bamba/units"
UNIT_FORMAT = "bamba-unit/2"
PART_FORMAT = "bamba-part/2"
MAX_RECORD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StagedShard:
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


@dataclass(frozen=True, slots=True)
class UnitRecord:
    key: str
    parts: list[Part] = field(default_factory=list)

    @property
    def inputs(self) -> list[ReadInput]:
        return [one for part in self.parts for one in part.inputs]

    @property
    def ledger(self) -> Ledger:
        total = Ledger()
        for part in self.parts:
            for ledger in part.ledgers.values():
                total.add(ledger)
        return total


class Staging:
    """The records of units in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def parts(self, source: str, key: str) -> list[Part]:
        """The finished parts, from 0 on without a gap; one that is damaged, or whose files are, ends the list, because
        it can be redone."""
        found: list[Part] = []
        while True:
            path = part_path(source, key, len(found))
            try:
                raw = self._unsealed(path, PART_FORMAT, source, key)
                part = _part(raw["part"], path)
            except (FileNotFoundError, BambaError):
                return found
            if part.number != len(found) or not self._has_files(part):
                return found
            found.append(part)

    def _has_files(self, part: Part) -> bool:
        """They were there, whole, when its record was written; a sweep or a lost disk may have come since."""
        there = {file.path: self._store.stat(file.path) for file in part.files}
        return all((entry := there[file.path]) and entry.size_bytes == file.size_bytes for file in part.files)

    def save_part(self, source: str, key: str, part: Part) -> None:
        fields = {"format": PART_FORMAT, "source": source, "key": key, "part": _to_json(part)}
        self._store.put(part_path(source, key, part.number), seal(fields))

    def finish(self, source: str, record: UnitRecord) -> UnitRecord:
        """Create the unit record. If one is there already, the other one's result counts, and must be of the same
        content: other libraries may have written other bytes of it. A damaged one is set aside."""
        path, parts = unit_path(source, record.key), [_to_json(part) for part in record.parts]
        data = seal({"format": UNIT_FORMAT, "source": source, "key": record.key, "parts": parts})
        while not self._store.create(path, data) and self._store.read(path) != data:
            try:
                first = self.unit(source, record.key)
            except CorruptManifest:
                self.set_aside(path)
                continue
            if first is None:
                continue
            if _content(first) == _content(record):
                return first
            raise NotReproducible(
                f"unit {source}/{record.key} gave two different results ({path}); compare the machines that ran it, "
                "remove that record and run again"
            )
        return record

    def unit(self, source: str, key: str) -> UnitRecord | None:
        """The record of a finished unit, or None. Raises CorruptManifest for a damaged one: it is the truth, not a
        hint, so who meets that sets it aside and makes the unit anew."""
        path = unit_path(source, key)
        try:
            raw = self._unsealed(path, UNIT_FORMAT, source, key)
        except FileNotFoundError:
            return None
        if not isinstance(raw.get("parts"), list):
            raise CorruptManifest(path, "is not the record of its unit")
        return UnitRecord(key, [_part(part, path) for part in raw["parts"]])

    def set_aside(self, path: str) -> None:
        """Take a record out of its place, so that it is made anew; what it said stays beside it, for people to read."""
        try:
            data = self._store.read(path)
        except FileNotFoundError:
            return
        self._store.put(f"{path}.aside-{sha256(data)[:12]}", data)
        self._store.delete(path)

    def _unsealed(self, path: str, form: str, source: str, key: str) -> dict[str, Any]:
        found = unseal(self._store.read(path), path, MAX_RECORD_BYTES)
        if [found.get(name) for name in ("format", "source", "key")] != [form, source, key]:
            raise CorruptManifest(path, f"is not the {form} of {source}/{key}")
        return found

    def finished(self) -> Iterator[str]:
        """The keys of all units that have a record."""
        for entry in self._store.list(FOLDER):
            if entry.path.endswith("/unit.json"):
                yield entry.path.split("/")[-2]


def _content(record: UnitRecord) -> list[Any]:
    """What a unit's result is, whatever wrote it: not the bytes of its files, nor how they lie in them."""
    return [
        [
            part.end,
            [
                [[(b.documents, b.tokens, b.digest, b.ids_digest) for b in part.shard.blocks], part.shard.candidates]
                if part.shard
                else None
            ],
            part.letters.records if part.letters else 0,
            part.ledgers,
            part.inputs,
        ]
        for part in record.parts
    ]


def unit_path(source: str, key: str) -> str:
    return f"{FOLDER}/{source}/{key}/unit.json"


def part_path(source: str, key: str, number: int) -> str:
    return f"{FOLDER}/{source}/{key}/part-{number:05d}.json"


def _to_json(part: Part) -> dict[str, Any]:
    """Blocks column by column: the key names would be most of the record otherwise."""
    raw = asdict(part)
    if raw["shard"]:
        rows = raw["shard"]["blocks"]
        raw["shard"]["blocks"] = {name: [row[name] for row in rows] for name in Block.__dataclass_fields__}
    raw["ledgers"] = {str(file): ledger for file, ledger in raw["ledgers"].items()}
    return raw


def _part(raw: Any, where: str) -> Part:
    try:
        shard = letters = None
        if raw["shard"] is not None:
            columns = [raw["shard"]["blocks"][name] for name in Block.__dataclass_fields__]
            blocks = [Block(*row) for row in zip(*columns, strict=True)]
            candidates = [Candidate(*row) for row in raw["shard"]["candidates"]]
            footer = Footer(*raw["shard"]["footer"])
            shard = StagedShard(**{**raw["shard"], "blocks": blocks, "candidates": candidates, "footer": footer})
            checked(shard.path)
        if raw["letters"] is not None:
            letters = StagedLetters(**raw["letters"])
            checked(letters.path)
        return Part(
            number=raw["number"],
            end=Place(**raw["end"]),
            backend=raw["backend"],
            shard=shard,
            letters=letters,
            ledgers={int(file): Ledger(**ledger) for file, ledger in raw["ledgers"].items()},
            inputs=[ReadInput(**one) for one in raw["inputs"]],
            sampled=Sampled(**raw["sampled"]),
            made_by=MadeBy(dict(raw["made_by"]["software"]), Certificate(**raw["made_by"]["certificate"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptManifest(where, f"record field {error}") from None
