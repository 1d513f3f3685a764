"""Publishing: one small object, created if absent, makes everything before it real.

A version is `_bamba/versions/<number>.json`. It names a manifest by digest; the manifest and all it names were
written before, under names made of their content. So a reader sees a whole version or none, of two publishers of
one number exactly one wins, and whatever reply is lost, reading the object back tells who.
"""

import datetime
import re
from dataclasses import dataclass
from typing import Any

from bamba_data import canonical
from bamba_data.errors import CorruptManifest, DatasetNotFound, PublishConflict, PublishUnknown, StoreUnavailable
from bamba_data.manifest import Manifest, path_of
from bamba_data.store import Store

FOLDER = "_bamba/versions"
FORMAT = "bamba-version/1"
MAX_BYTES = 1 << 16
_NAME = re.compile(rf"^{FOLDER}/(\d{{6}})\.json$")
_SHA256S = re.compile(r"[0-9a-f]{128}")
_TRIES = 3


@dataclass(frozen=True)
class Version:
    """`build` tells whose it is. `lock` is the digest of the lock that the build used.

    Its JSON ends with the sha256 of the rest: nothing else names this object's bytes, so it vouches for itself.
    """

    number: int
    manifest: str
    build: str
    lock: str
    published_at: str

    def to_json(self) -> dict[str, Any]:
        fields = {
            "format": FORMAT,
            "version": self.number,
            "manifest": self.manifest,
            "build": self.build,
            "lock": self.lock,
            "published_at": self.published_at,
        }
        return {**fields, "sha256": canonical.digest(fields)}


def versions(store: Store) -> list[int]:
    """The numbers of all published versions, ascending."""
    found = (_NAME.match(entry.path) for entry in store.list(FOLDER))
    return sorted(int(match.group(1)) for match in found if match)


def read_version(store: Store, number: int | None = None) -> Version:
    """A version by number, or the newest."""
    if number is None:
        known = versions(store)
        if not known:
            raise DatasetNotFound(f"{store.url}: no dataset has been published here")
        number = known[-1]
    path = _path(number)
    try:
        data = store.read_range(path, 0, MAX_BYTES + 1)
    except FileNotFoundError:
        have = ", ".join(map(str, versions(store))) or "none"
        raise DatasetNotFound(f"{store.url}: no version {number} (there are: {have})") from None
    raw = canonical.loads(data, path, MAX_BYTES)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or raw.get("version") != number:
        raise CorruptManifest(path, f"is not version {number} in format {FORMAT}")
    fields = [raw.get(name) for name in ("manifest", "build", "lock", "published_at")]
    found = Version(number, *map(str, fields))
    if not all(isinstance(field, str) for field in fields) or not _SHA256S.fullmatch(found.manifest + found.lock):
        raise CorruptManifest(path, "manifest, build, lock or published_at is missing or not of its form")
    if canonical.dumps(found.to_json()) != data:
        raise CorruptManifest(path, "does not have the sha256 that it states")
    return found


def publish(store: Store, manifest: Manifest, build: str, lock: str) -> Version:
    """Make `manifest` the newest version, once. Everything that it names must be in the store already.

    Publishing what is the newest version already returns that version. Raises PublishConflict if somebody else
    took the number for another dataset, PublishUnknown if the store leaves us in doubt; deletes nothing, ever.
    """
    store.put(path_of(manifest.digest), manifest.data)
    known = versions(store)
    if known:
        newest = read_version(store, known[-1])
        if newest.manifest == manifest.digest:
            return newest
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    ours = Version((known[-1] if known else 0) + 1, manifest.digest, build, lock, now)
    data = canonical.dumps(ours.to_json())
    doubt: Exception | None = None
    for _ in range(_TRIES):
        try:
            if store.create(_path(ours.number), data):
                return ours
        except (OSError, StoreUnavailable) as error:
            doubt = error
        # A refusal can be the echo of our own success whose reply was lost: only the object tells.
        try:
            landed = read_version(store, ours.number)
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


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"
