"""What a place offers, and how that is changed after publishing: withdraw, expire, tag. Nothing here removes data.

A withdrawn version is whole, and readers get it only by the word `withdrawn:<number>`. An expired one is gone for
readers, for good, and the next sweep may take what only it needs. A tag keeps its version from expiring. Whoever marks
or tags looks again afterwards, so that of a tag and an expiry that come at once one is undone. Last of all the folder's
card is made anew (bamba_data/card).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bamba_data.card.refresh import refresh_and_say
from bamba_data.errors import CorruptManifest, DatasetNotFound, UserError
from bamba_data.format import version_marks
from bamba_data.format.layout import CLOCK, VERSIONS, version_path
from bamba_data.format.version_marks import ALSO_WITHDRAWN, Tag
from bamba_data.format.versions import published, read_version
from bamba_data.storage.store import Store, now

State = Literal["offered", "withdrawn", "expired"]


@dataclass(frozen=True)
class Listed:
    """A version as `bamba-data versions` shows it. `said` is when and why it was withdrawn or expired, or what is wrong
    with its object; then `manifest` and `published_at` are empty."""

    number: int
    state: State
    newest: bool
    tags: tuple[str, ...]
    manifest: str
    published_at: str
    said: str


def listed(store: Store) -> list[Listed]:
    """All versions, oldest first. Raises DatasetNotFound where there is none."""
    known = version_marks.known(store)
    if not known.numbers:
        raise DatasetNotFound(f"{store.url}: no dataset has been published here")
    tags: dict[int, list[str]] = {}
    for name, tag in version_marks.tags(store).items():
        if isinstance(tag, Tag):
            tags.setdefault(tag.version, []).append(name)
    rows = []
    for number in known.numbers:
        state: State = "offered"
        said = ""
        if number in known.expired:
            state, said = "expired", version_marks.describe(store, "expired", number)
        elif number in known.withdrawn:
            state, said = "withdrawn", version_marks.describe(store, "withdrawn", number)
        try:
            version = published(store, number)
            manifest, at = version.manifest, version.published_at
        except CorruptManifest as error:
            manifest, at, said = "", "", f"{said}; {error}".removeprefix("; ")
        newest = known.offered[-1:] == [number]
        rows.append(Listed(number, state, newest, tuple(tags.get(number, ())), manifest, at, said))
    return rows


def withdraw(store: Store, number: int, why: str) -> bool:
    """Take a version back: readers of the newest get the one before it. False if it was withdrawn already. Its object
    may be damaged. Raises DatasetNotFound."""
    _check_exists(store, number)
    done = version_marks.mark(store, "withdrawn", number, _manifest(store, number), why)
    refresh_and_say(store)
    return done


def offer_again(store: Store, number: int) -> bool:
    """Undo a withdrawal; False if there was none."""
    known = _check_exists(store, number)
    version_marks.unmark(store, "withdrawn", number)
    refresh_and_say(store)
    return number in known.withdrawn


def to_expire(store: Store, keep: int | None, older_than_days: float | None) -> list[int]:
    """The versions that a rule lets expire: not the `keep` newest that are offered, only those published so long ago by
    the store's clock, and never the newest that is offered nor one that is tagged. Raises DatasetNotFound where there
    is none at all."""
    known = version_marks.known(store)
    if not known.numbers:
        raise DatasetNotFound(f"{store.url}: no dataset has been published here")
    kept = {*known.offered[-max(1, keep or 1) :], *_tags_by_number(store)}
    chosen = [number for number in known.unexpired if number not in kept]
    if older_than_days is not None:
        clock = now(store, CLOCK)
        written = {entry.path: entry.modified for entry in store.list(VERSIONS)}
        limit = clock - older_than_days * 86400
        chosen = [number for number in chosen if written.get(version_path(number), clock) < limit]
    return chosen


def expire(store: Store, numbers: Sequence[int], why: str) -> list[int]:
    """Let these versions expire; those that had not yet. Raises UserError, before any does, for one that is tagged, and
    for the newest that is offered, unless its own object is damaged."""
    known, tags = version_marks.known(store), _tags_by_number(store)
    for number in numbers:
        _check_exists(store, number)
        if tagged := tags.get(number):
            raise UserError(_is_tagged(store, number, tagged))
        if known.offered[-1:] == [number] and _manifest(store, number) is not None:
            raise UserError(
                f"{store.url}: version {number} is the newest that readers get; publish another first, or withdraw it: "
                f"bamba-data withdraw {store.url} {number}"
            )
    done = [number for number in numbers if version_marks.mark(store, "expired", number, _manifest(store, number), why)]
    tags = _tags_by_number(store)
    for number in done:
        if tagged := tags.get(number):  # meanwhile
            version_marks.unmark(store, "expired", number)
            raise UserError(_is_tagged(store, number, tagged))
    refresh_and_say(store)
    return done


def tag(store: Store, name: str, number: int, move: bool) -> Tag:
    """Name a version. Raises UserError if the name is taken (unless `move`) or the version has expired."""
    version_marks.checked_name(name)
    version = read_version(store, f"{ALSO_WITHDRAWN}{number}")
    if not version_marks.write_tag(store, name, number, version.manifest, move):
        try:
            standing = version_marks.read_tag(store, name)
        except FileNotFoundError:
            raise UserError(
                f"{store.url}: the tag {name} was removed this moment; run the same command again"
            ) from None
        if (standing.version, standing.manifest) != (number, version.manifest):
            raise UserError(f"{store.url}: {name} is version {standing.version}; to name version {number} so: --move")
    if number in version_marks.known(store).expired:  # meanwhile
        version_marks.remove_tag(store, name)
        raise UserError(f"{store.url}: version {number} expired this moment; it was not tagged")
    made = version_marks.read_tag(store, name)
    refresh_and_say(store)
    return made


def untag(store: Store, name: str) -> None:
    """Raises DatasetNotFound if there is no such tag."""
    if name not in version_marks.tags(store):
        raise DatasetNotFound(
            f"{store.url}: no tag {name!r} (the tags are: {', '.join(version_marks.tags(store)) or 'none'})"
        )
    version_marks.remove_tag(store, name)
    refresh_and_say(store)


def _tags_by_number(store: Store) -> dict[int, list[str]]:
    """A damaged tag is an error: nobody knows what it keeps."""
    names: dict[int, list[str]] = {}
    for name, tag in version_marks.tags(store).items():
        if isinstance(tag, CorruptManifest):
            raise tag
        names.setdefault(tag.version, []).append(name)
    return names


def _check_exists(store: Store, number: int) -> version_marks.Known:
    known = version_marks.known(store)
    if number not in known.numbers:
        have = ", ".join(map(str, known.numbers)) or "none"
        raise DatasetNotFound(f"{store.url}: no version {number} (there are: {have})")
    return known


def _manifest(store: Store, number: int) -> str | None:
    try:
        return published(store, number).manifest
    except CorruptManifest:
        return None


def _is_tagged(store: Store, number: int, tagged: list[str]) -> str:
    return (
        f"{store.url}: version {number} is tagged {', '.join(tagged)} and does not expire; "
        f"remove the tag first: bamba-data tag {store.url} {tagged[0]} --remove"
    )
