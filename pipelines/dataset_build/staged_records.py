"""The staged work of a build in its store: which parts and units are finished, and what they gave.

Part records are hints for going on, checked against the input before they are used, and may be overwritten.
The unit record is the truth: it is created once, after every input of the unit was read to its end and verified,
and a second, different one is an error. A unit is a pure function, so its damaged record is set aside and made anew.
"""

from collections.abc import Iterator
from typing import Any

from bamba_data.canonical_json import sha256
from bamba_data.errors import BambaError, CorruptManifest, NotReproducible
from bamba_data.format.layout import UNIT_NAME, UNITS, part_path, unit_path
from bamba_data.format.unit_records import Part, PartRecord, UnitRecord
from bamba_data.storage.store import Store


class Staging:
    """The records of units in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def parts(self, source: str, key: str) -> list[Part]:
        """The finished parts, from 0 on without a gap; one that is damaged, or whose files are, ends the list, because
        it can be redone."""
        parts: list[Part] = []
        while True:
            path = part_path(source, key, len(parts))
            try:
                part = PartRecord.read_of(self._store, path, source, key).part
            except (FileNotFoundError, BambaError):
                return parts
            if part.number != len(parts) or not self._has_files(part):
                return parts
            parts.append(part)

    def _has_files(self, part: Part) -> bool:
        """They were there, whole, when its record was written; a sweep or a lost disk may have come since."""
        return all(
            (entry := self._store.stat(file.path)) and entry.size_bytes == file.size_bytes for file in part.files
        )

    def save_part(self, source: str, key: str, part: Part) -> None:
        self._store.put(part_path(source, key, part.number), PartRecord(source, key, part).sealed())

    def finish(self, record: UnitRecord) -> UnitRecord:
        """Create the unit record. If one is there already, the other one's result counts, and must be of the same
        content: other libraries may have written other bytes of it. A damaged one is set aside.

        Returns:
            The record that is in the store now.

        Raises:
            NotReproducible: The unit gave another result before.
        """
        path, data = unit_path(record.source, record.key), record.sealed()
        while not self._store.create(path, data) and self._store.read(path) != data:
            try:
                first = self.unit(record.source, record.key)
            except CorruptManifest:
                self.set_aside(path)
                continue
            if first is None:
                continue
            if _content(first) == _content(record):
                return first
            raise NotReproducible(
                f"unit {record.source}/{record.key} gave two different results ({path}); compare the machines that ran "
                "it, remove that record and run again"
            )
        return record

    def unit(self, source: str, key: str) -> UnitRecord | None:
        """The record of a finished unit, or None.

        Raises:
            CorruptManifest: It is damaged. It is the truth, not a hint, so who meets that sets it aside and makes the
                unit anew.
        """
        try:
            return UnitRecord.read_of(self._store, unit_path(source, key), source, key)
        except FileNotFoundError:
            return None

    def set_aside(self, path: str) -> None:
        """Take a record out of its place, so that it is made anew; what it said stays beside it, for people to read."""
        try:
            data = self._store.read(path)
        except FileNotFoundError:
            return
        self._store.put(f"{path}.aside-{sha256(data)[:12]}", data)
        self._store.delete(path)

    def finished(self) -> Iterator[str]:
        """The keys of all units that have a record."""
        for entry in self._store.list(UNITS):
            if entry.path.endswith(f"/{UNIT_NAME}"):
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
