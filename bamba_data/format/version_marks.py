"""What is said of versions after they were published: withdrawn, expired, tagged. Each is a sealed object of its own.

    _bamba/versions/000003.withdrawn.json   no reader gets it by asking for the newest; its files stay
    _bamba/versions/000003.expired.json     gone for readers; a sweep may take what only it needs
    _bamba/tags/<name>.json                 a name for a version; what is tagged does not expire

A version's own object stays for ever, so that no number is used twice. That a mark is there decides; should it be
damaged, only what it says is lost.
"""

import datetime
import re
from dataclasses import dataclass
from typing import ClassVar

from bamba_data.errors import CorruptManifest, UserError
from bamba_data.format.layout import TAGS, VERSIONS, mark_path, tag_path
from bamba_data.format.layout import Mark as Kind
from bamba_data.records import Record
from bamba_data.storage.store import Store

MAX_WHY_CHARS = 2000
ALSO_WITHDRAWN = "withdrawn:"  # `withdrawn:3` is version 3, whether it was withdrawn or not
_NAME = re.compile(rf"^{VERSIONS}/(\d{{6}})(?:\.(withdrawn|expired))?\.json$")
_TAG = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = ("newest", "latest", "withdrawn", "expired", "all", "none")


@dataclass(frozen=True)
class Mark(Record):
    """`manifest` is the digest of the version's manifest; None where its own object could not be read. `at` is ISO 8601
    in UTC, by the clock of who marked it, for people."""

    FORMAT = "bamba-mark/1"

    kind: Kind
    version: int
    manifest: str | None
    why: str
    at: str


@dataclass(frozen=True)
class Tag(Record):
    """A name for the version `version`, whose manifest has the digest `manifest`."""

    FORMAT = "bamba-tag/1"
    RENAMED: ClassVar = {"name": "tag"}

    name: str
    version: int
    manifest: str
    at: str


@dataclass(frozen=True)
class Known:
    """The numbers of all versions of a place, ascending, and which of them are marked: one listing."""

    numbers: list[int]
    withdrawn: set[int]
    expired: set[int]

    @property
    def offered(self) -> list[int]:
        """Those that readers get."""
        return [number for number in self.numbers if number not in self.withdrawn | self.expired]

    @property
    def unexpired(self) -> list[int]:
        return [number for number in self.numbers if number not in self.expired]


def known(store: Store) -> Known:
    """All versions and which are marked; one listing. What is damaged counts: that a mark is there decides."""
    numbers: dict[str | None, set[int]] = {None: set(), "withdrawn": set(), "expired": set()}
    for entry in store.list(VERSIONS):
        if match := _NAME.match(entry.path):
            numbers[match.group(2)].add(int(match.group(1)))
    return Known(sorted(numbers[None]), numbers["withdrawn"], numbers["expired"])


def mark(store: Store, kind: Kind, number: int, manifest: str | None, why: str) -> bool:
    """Mark a version; False if it is marked so already."""
    if len(why) > MAX_WHY_CHARS:
        raise UserError(f"the reason is longer than {MAX_WHY_CHARS:,} characters")
    return store.create(mark_path(kind, number), Mark(kind, number, manifest, why, now_iso()).sealed())


def unmark(store: Store, kind: Kind, number: int) -> None:
    store.delete(mark_path(kind, number))


def read_mark(store: Store, kind: Kind, number: int) -> Mark:
    """Raises CorruptManifest, FileNotFoundError."""
    path = mark_path(kind, number)
    mark = Mark.read(store, path)
    if (mark.kind, mark.version) != (kind, number):
        raise CorruptManifest(path, f"does not say that version {number} is {kind}")
    return mark


def describe(store: Store, kind: Kind, number: int) -> str:
    """`was withdrawn on <when>: <why>`, for people, whatever can still be read of the mark."""
    verb = "was withdrawn" if kind == "withdrawn" else "expired"
    try:
        mark = read_mark(store, kind, number)
    except (CorruptManifest, FileNotFoundError):
        return f"{verb} (when and why cannot be read: {mark_path(kind, number)} is damaged)"
    return f"{verb} on {mark.at}" + (f": {mark.why}" if mark.why else "")


def checked_name(name: str) -> str:
    """`name`, if a tag may have it. Raises UserError."""
    if not _TAG.fullmatch(name) or name.casefold() in _RESERVED or name[-1] in "._-":
        raise UserError(
            f"{name[:80]!r} cannot be a tag: up to 64 letters, digits, '.', '_' and '-', at least one letter, "
            f"a letter or digit at both ends, and none of {', '.join(_RESERVED)}"
        )
    return name


def tags(store: Store) -> dict[str, Tag | CorruptManifest]:
    """All tags by name; a damaged one is what is wrong with it."""
    by_name: dict[str, Tag | CorruptManifest] = {}
    for entry in store.list(TAGS):
        name = entry.path.removeprefix(f"{TAGS}/").removesuffix(".json")
        if entry.path == tag_path(name) and _TAG.fullmatch(name):
            try:
                by_name[name] = read_tag(store, name)
            except CorruptManifest as error:
                by_name[name] = error
            except FileNotFoundError:  # removed meanwhile
                continue
    return dict(sorted(by_name.items()))


def read_tag(store: Store, name: str) -> Tag:
    """Raises CorruptManifest, FileNotFoundError."""
    path = tag_path(checked_name(name))
    try:
        tag = Tag.read(store, path)
        if tag.name != name:
            raise CorruptManifest(path, f"is not the tag {name}")
    except CorruptManifest as error:
        raise CorruptManifest(
            path, f"{error.detail}; set it anew: bamba-data tag {store.url} {name} VERSION --move"
        ) from None
    return tag


def write_tag(store: Store, name: str, version: int, manifest: str, move: bool) -> bool:
    """False if there is such a tag, and `move` does not say that it may be moved."""
    path, data = tag_path(checked_name(name)), Tag(name, version, manifest, now_iso()).sealed()
    if move:
        store.put(path, data)
        return True
    return store.create(path, data)


def remove_tag(store: Store, name: str) -> None:
    store.delete(tag_path(checked_name(name)))


def now_iso() -> str:
    """This machine's time in UTC, ISO 8601 to the second: for people, never to decide by."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
