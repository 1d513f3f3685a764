"""Publishing: one small object, created if absent, makes everything before it real.

A version is `_bamba/versions/<number>.json`. It names a manifest by digest; the manifest and all it names were
written before, under names made of their content, and checked as a reader would. So a reader sees a whole version or
none, of two publishers of one number exactly one wins, and whatever reply is lost, reading the object back tells who.
(Delta Lake commits so: put if absent, of the next number.)
What is said of a version later (withdrawn, expired, tagged) are objects of their own: version_marks.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec

from bamba_data import canonical_json
from bamba_data.errors import (
    CorruptManifest,
    DatasetNotFound,
    PublishConflict,
    PublishUnknown,
    StoreUnavailable,
    UserError,
    Withdrawn,
)
from bamba_data.format import manifest as manifests
from bamba_data.format import version_marks
from bamba_data.format.layout import manifest_path, version_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.version_marks import ALSO_WITHDRAWN
from bamba_data.records import Record
from bamba_data.storage.store import Store

MIN_DIGEST_CHARS = 8  # `versions` prints 16; fewer are too easily a tag or a number
_DIGEST = re.compile(rf"[0-9a-f]{{{MIN_DIGEST_CHARS},64}}")
_TRIES = 3
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


@dataclass(frozen=True)
class Version(Record):
    """A publication: `manifest` is the digest of its manifest, `lock` of the lock that the build used, and `build` a
    random name that tells whose it is."""

    FORMAT = "bamba-version/1"
    RENAMED: ClassVar = {"number": "version"}

    number: int
    manifest: _Sha256
    build: str
    lock: _Sha256
    published_at: str


def versions(store: Store) -> list[int]:
    """The numbers of all published versions, ascending, withdrawn and expired ones too."""
    return version_marks.known(store).numbers


def read_version(store: Store, which: int | str | None = None) -> Version:
    """The version that is meant.

    Args:
        store: the dataset's place.
        which: None for the newest that is offered; a number; a tag; the sha256 of a manifest, or its first
            characters, at least MIN_DIGEST_CHARS; or `withdrawn:<number>`, which is that version even if it was
            withdrawn.

    Raises:
        DatasetNotFound: there is no such version, or it has expired.
        Withdrawn: it was withdrawn; the message says when and why.
        UserError: `which` could mean several.
    """
    number, tag = _number(store, which)
    known = version_marks.known(store)
    if number is None:
        if not known.offered:
            why = "all its versions are withdrawn or expired" if known.numbers else "no dataset has been published here"
            raise DatasetNotFound(f"{store.url}: {why}" + (": bamba-data versions" if known.numbers else ""))
        number = known.offered[-1]
    by = f", which is tagged {tag.name}," if tag else ""
    if number in known.expired:
        raise DatasetNotFound(
            f"{store.url}: version {number}{by} {version_marks.describe(store, 'expired', number)}; "
            f"its files may be gone (there are: {_listed(known.offered)})"
        )
    if number in known.withdrawn and not str(which).startswith(ALSO_WITHDRAWN):
        raise Withdrawn(
            f"{store.url}: version {number}{by} {version_marks.describe(store, 'withdrawn', number)}. "
            f"To read it all the same, ask for version {ALSO_WITHDRAWN}{number} (there are: {_listed(known.offered)})"
        )
    version = published(store, number)
    if tag and tag.manifest != version.manifest:
        raise CorruptManifest(version_path(number), f"is not the version {number} that was tagged {tag.name}")
    return version


def _number(store: Store, which: int | str | None) -> tuple[int | None, version_marks.Tag | None]:
    """The number that is meant, and the tag if it is meant by one."""
    if which is None or isinstance(which, int):
        return which, None
    digits = which.removeprefix(ALSO_WITHDRAWN)
    if digits.isascii() and digits.isdecimal() and len(digits) <= 6:
        return int(digits), None
    by_digest = _of_digest(store, which) if _DIGEST.fullmatch(which) else {}
    if len(set(by_digest.values())) > 1:
        raise UserError(
            f"{store.url}: {which} begins the digests of versions {_listed(sorted(by_digest))}: give more of it"
        )
    tag = None
    try:
        tag = version_marks.read_tag(store, which)
    except FileNotFoundError:
        pass
    except UserError:  # no name that a tag may have
        if not _DIGEST.fullmatch(which):
            raise
    if tag is None and not by_digest:
        nor = ", nor a digest that begins so" if _DIGEST.fullmatch(which) else ""
        have = _listed(version_marks.tags(store))
        raise DatasetNotFound(f"{store.url}: no version or tag {which!r}{nor} (the tags are: {have})")
    if tag is None:
        return max(by_digest), None
    if by_digest and tag.version not in by_digest:
        raise UserError(
            f"{store.url}: {which} is a tag of version {tag.version} and begins the digest of version "
            f"{max(by_digest)}: say which by its number"
        )
    return tag.version, tag


def _of_digest(store: Store, beginning: str) -> dict[int, str]:
    """The versions whose manifest's digest begins so, by number. If one was published twice, readers want the one that
    is offered."""
    known = version_marks.known(store)
    matching: dict[int, str] = {}
    for number in known.numbers:
        try:
            digest = Version.read(store, version_path(number)).manifest
        except CorruptManifest:  # told when it is asked for
            continue
        if digest.startswith(beginning):
            matching[number] = digest
    return {number: matching[number] for number in matching if number in known.offered} or matching


def _listed(what: object) -> str:
    return ", ".join(map(str, what)) or "none"  # type: ignore[call-overload]


def published(store: Store, number: int) -> Version:
    """The version of that number, whatever was said of it since."""
    path = version_path(number)
    try:
        version = Version.read(store, path)
        if version.number != number:
            raise CorruptManifest(path, f"is version {version.number}, not {number}")
        return version
    except FileNotFoundError:
        raise DatasetNotFound(f"{store.url}: no version {number} (there are: {_listed(versions(store))})") from None
    except CorruptManifest as error:
        raise CorruptManifest(
            path,
            f"{error.detail}; give this version up (bamba-data expire {store.url} {number}), then build again: it is "
            "published under the next number, and nothing is computed twice",
        ) from None


def publish(
    store: Store, manifest: Manifest, build: str, lock: str, check: Callable[[], object] = lambda: None
) -> Version:
    """Make `manifest` the newest version, once. Everything that it names must be in the store already: the manifest is
    read back as readers do, then `check` is called, and raises if anything is amiss, before the version is made.

    Publishing what is the newest version already, the same identity with the same provenance (manifest.provenance),
    returns that version: its `build` is not ours. Raises PublishConflict if somebody else took the number for another
    dataset, PublishUnknown if the store leaves us in doubt, UserError if this very dataset was withdrawn; deletes
    nothing, ever.
    """
    known = version_marks.known(store)
    if known.offered:
        newest = published(store, known.offered[-1])
        if _says_the_same(store, newest, manifest):
            return newest
    store.put(manifest_path(manifest.digest), manifest.data)
    _read_back(store, manifest)
    if known.offered and newest.manifest == manifest.digest:
        check()
        return newest
    _check_not_withdrawn(store, known, manifest)
    check()
    number = (known.numbers[-1] if known.numbers else 0) + 1
    ours = Version(number, manifest.digest, build, lock, version_marks.now_iso())
    doubt: Exception | None = None
    for _ in range(_TRIES):  # each `create` already tries for minutes; these are for replies that are lost
        try:
            if store.create(version_path(ours.number), ours.sealed()):
                return ours
        except (OSError, StoreUnavailable) as error:
            doubt = error
        # A refusal can be the echo of our own success whose reply was lost: only the object tells.
        try:
            landed = published(store, ours.number)
        except DatasetNotFound:
            continue
        except (OSError, StoreUnavailable) as error:
            doubt = error
            continue
        if landed.manifest == ours.manifest:
            return landed
        raise PublishConflict(ours.number, ours.manifest, landed.manifest)
    raise PublishUnknown(
        f"{store.url}: version {ours.number} may or may not be published ({type(doubt).__name__}: {doubt}); "
        "nothing was deleted; run again when the store answers"
    )


def _read_back(store: Store, manifest: Manifest) -> None:
    """What no reader would take must not become a version: it could never be opened, nor built upon."""
    path = manifest_path(manifest.digest)
    data = store.read_range(path, 0, manifests.MAX_BYTES + 1)
    manifests.loads(data, path)
    if data != manifest.data:
        raise CorruptManifest(path, "is not what was written there a moment ago; run the same command again")


def _check_not_withdrawn(store: Store, known: version_marks.Known, manifest: Manifest) -> None:
    for number in sorted(known.withdrawn & set(known.unexpired)):
        try:
            same = version_marks.read_mark(store, "withdrawn", number).manifest == manifest.digest
        except (CorruptManifest, FileNotFoundError):
            continue
        if same:
            raise UserError(
                f"{store.url}: this very dataset was published before, as version {number}, and "
                f"{version_marks.describe(store, 'withdrawn', number)}. To offer it again: "
                f"bamba-data withdraw {store.url} {number} --undo"
            )


def _says_the_same(store: Store, version: Version, manifest: Manifest) -> bool:
    """Whether a version is another publication of all that `manifest` says: what other libraries write of it."""
    if version.manifest == manifest.digest or manifest.provenance is None:
        return False
    path = manifest_path(version.manifest)
    try:
        data = store.read_range(path, 0, manifests.MAX_BYTES + 1)
    except FileNotFoundError:
        return False
    if canonical_json.sha256(data) != version.manifest:
        return False
    return manifests.loads(data, path).provenance == manifest.provenance
