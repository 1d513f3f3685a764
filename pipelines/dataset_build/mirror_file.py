"""What a mirror says of itself: a record of every file that is whole, and `mirror.json`, written last.

`mirror.json` holds a lock that knows every sha256. Without it the mirror is not finished.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, UserError
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Recipe
from bamba_data.records import Record, seal, unseal
from bamba_data.storage.locked_file import LockedFile
from bamba_data.storage.paths import stored_name
from bamba_data.storage.store import Store, open_store

MIRROR = "mirror.json"
MIRROR_FORMAT = "bamba-mirror/2"
UNSEALED_MIRROR = "bamba-mirror/1"  # of before 2026-11-28
FILTERS = ("where", "transform")  # of a corpus: what no file of a mirror depends on


@dataclass(frozen=True)
class Learned:
    """What was learned of a file by reading it to its end."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class MirroredFile(Record):
    """One file that lies in the mirror, whole. `identity` is what makes it this file and no later one of its URL."""

    FORMAT = "bamba-mirrored/2"

    identity: list[Any]
    learned: Learned

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        raw = canonical_json.loads(data, where, cls.MAX_BYTES)
        if isinstance(raw, Mapping) and raw.keys() == {"identity", "size_bytes", "sha256"}:  # of before 2026-11-28
            learned = {name: raw[name] for name in ("size_bytes", "sha256")}
            return cls.of_fields({"identity": raw["identity"], "learned": learned}, where)
        return super().parse(data, where)


def mirrored_path(file: LockedFile) -> str:
    """Of the file's record; the file itself lies at its `stored_name`."""
    return f"_mirror/{stored_name(file.key)}.json"


def identity_of(file: LockedFile) -> list[Any]:
    """Not its sha256, which may be learned only now."""
    return [file.url, file.facts.size_bytes, file.facts.etag]


def write_mirror(store: Store, request: str, lock: Lock) -> None:
    """`request` is what the mirror was asked for: the digest of the recipe's corpora and limits."""
    store.put(MIRROR, seal({"format": MIRROR_FORMAT, "request": request, "lock": lock.to_json()}))


def mirrored_lock(recipe: Recipe, folder: Path, mirror: str) -> Lock:
    """The lock that a mirror was made under (pipelines.download)."""
    where = f"{mirror}/{MIRROR}"
    try:
        data = open_store(mirror).read(MIRROR)
    except FileNotFoundError:
        raise UserError(f"{where}: no finished mirror is there; make one with python -m pipelines.download") from None
    try:
        raw = canonical_json.loads(data, where, locks.MAX_BYTES)
        if isinstance(raw, dict) and raw.get("format") == MIRROR_FORMAT:
            raw = unseal(data, where, locks.MAX_BYTES)
    except CorruptManifest as error:
        raise CorruptManifest(
            where, f"{error.detail}; python -m pipelines.download writes it anew, and fetches nothing twice"
        ) from None
    if not isinstance(raw, dict) or raw.get("format") not in (MIRROR_FORMAT, UNSEALED_MIRROR):
        raise UserError(f"{where}: is not a mirror of format {MIRROR_FORMAT}")
    # Mirrors of before 2026-11-30 say the filters in what was asked for, too.
    if raw.get("request") not in (request_of(recipe, folder), locks.request_key(recipe, folder)):
        raise UserError(
            f"{where}: is the mirror of other inputs than this recipe's corpora and limits (relative bases start in "
            f"{folder.absolute()}); mirror these with python -m pipelines.download"
        )
    lock = locks.loads(canonical_json.dumps(raw["lock"]), where)
    filters = {source.name: {name: getattr(source, name) for name in FILTERS} for source in recipe.sources()}
    sources = {name: source.model_copy(update=filters[name]) for name, source in lock.sources.items()}
    return Lock(sources, lock.revisions, lock.files)


def unfiltered(recipe: Recipe) -> Recipe:
    """The recipe without `where` and `transform`: a mirror holds files as they are, whatever is made of them."""
    corpora = [corpus.model_copy(update=dict.fromkeys(FILTERS)) for corpus in recipe.corpora]
    return recipe.model_copy(update={"corpora": corpora})


def request_of(recipe: Recipe, folder: Path) -> str:
    """What a mirror is asked for."""
    return locks.request_key(unfiltered(recipe), folder)
