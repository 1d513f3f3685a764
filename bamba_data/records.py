"""Small JSON objects that vouch for themselves: each ends with the sha256 of the rest of its fields.

What is named by its content (shards, tables, manifests, locks) has a digest in its name. Everything else that we
write and later believe (versions, marks, plans, units, pointers, verdicts) is a sealed record: one flipped bit,
wherever it is, is a CorruptManifest and never another value. A kind of record is a frozen dataclass:

    @dataclass(frozen=True)
    class Pointer(Record):
        FORMAT = "bamba-pointer/2"
        lock: str

    store.put(path, Pointer(digest).sealed())
    Pointer.read(store, path).lock

`seal` and `unseal` are the same for fields that have no class.
"""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import msgspec

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, UnknownRecord

if TYPE_CHECKING:
    from bamba_data.storage.store import Store

SEAL = "sha256"

T = TypeVar("T")
_known: set[type] = set()
_first = threading.Lock()


def converted(raw: Any, kind: type[T]) -> T:
    """`msgspec.convert` for threads. Raises `msgspec.ValidationError`.

    msgspec 0.22 hangs what it learns of a class to the class before it has learned it all: a second thread that meets
    the class in that moment ends the process by a segmentation fault. So a class is met alone the first time.
    """
    if kind in _known:
        return msgspec.convert(raw, kind, str_keys=True)
    with _first:
        try:
            return msgspec.convert(raw, kind, str_keys=True)
        finally:
            _known.add(kind)


def seal(fields: Mapping[str, Any]) -> bytes:
    """The canonical JSON of `fields` and their sha256, as the field `sha256`. One value has one text."""
    if SEAL in fields:
        raise ValueError(f"a record has no field {SEAL!r} of its own")
    return canonical_json.dumps({**fields, SEAL: canonical_json.digest(dict(fields))})


def unseal(data: bytes, where: str, max_bytes: int) -> dict[str, Any]:
    """The fields of a sealed record, without the seal.

    Raises:
        CorruptManifest: names `where`, for what is no record, for one whose sha256 is not that of its fields, and for
            one that is written in any other way than `seal` does: a blank that becomes a tab is damage, too.
    """
    raw = canonical_json.loads(data, where, max_bytes)
    if not isinstance(raw, dict) or not isinstance(raw.get(SEAL), str):
        raise CorruptManifest(where, f"is not a record that ends with its own {SEAL}")
    fields = {name: value for name, value in raw.items() if name != SEAL}
    if seal(fields) != data:
        raise CorruptManifest(where, f"does not have the {SEAL} that it states: it is damaged, or was edited")
    return fields


class Record:
    """The base of a kind of sealed record: a frozen dataclass, whose fields are those of the JSON."""

    #: What the field `format` says: the kind and its version.
    FORMAT: ClassVar[str]
    #: A larger object is not read.
    MAX_BYTES: ClassVar[int] = 1 << 16
    #: Fields whose attribute has another name than the JSON: attribute -> name in the JSON.
    RENAMED: ClassVar[Mapping[str, str]] = {}

    def fields(self) -> dict[str, Any]:
        """The JSON of the record, without `format` and seal."""
        said = msgspec.to_builtins(self, str_keys=True)
        return {self.RENAMED.get(name, name): value for name, value in said.items()}

    def sealed(self) -> bytes:
        """The record as it lies in a store."""
        return seal({"format": self.FORMAT, **self.fields()})

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any], where: str) -> Self:
        """The record that has these fields.

        Raises:
            UnknownRecord: a field is missing, unknown, or of another type.
        """
        attributes = {name: attribute for attribute, name in cls.RENAMED.items()}
        named = {attributes.get(name, name): value for name, value in fields.items()}
        try:
            record = converted(named, cls)
        except msgspec.ValidationError as error:
            raise UnknownRecord(where, f"is not of format {cls.FORMAT}: {error}") from None
        # msgspec passes over fields that a dataclass does not have: a later version may mean something by them.
        if canonical_json.dumps(Record.fields(record)) != canonical_json.dumps(dict(fields)):
            raise UnknownRecord(where, f"has fields that {cls.FORMAT} does not have: a later version wrote it")
        return record

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """The record that these bytes are. Raises CorruptManifest (UnknownRecord for a whole one): it names `where`."""
        fields = unseal(data, where, cls.MAX_BYTES)
        if (stated := fields.pop("format", None)) != cls.FORMAT:
            raise UnknownRecord(where, f"is of format {str(stated)[:40]!r}, not {cls.FORMAT!r}")
        return cls.of_fields(fields, where)

    @classmethod
    def read(cls, store: "Store", path: str) -> Self:
        """The record at `path`. Raises CorruptManifest, and FileNotFoundError where there is none."""
        return cls.parse(store.read_range(path, 0, cls.MAX_BYTES + 1), path)
