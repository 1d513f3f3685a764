"""`mirror.json`, written last: what a finished mirror holds, as a lock that knows every sha256."""

from pathlib import Path

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, UserError
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Recipe
from bamba_data.records import seal, unseal
from bamba_data.storage.store import Store, open_store

MIRROR = "mirror.json"
MIRROR_FORMAT = "bamba-mirror/2"
UNSEALED_MIRROR = "bamba-mirror/1"  # of before 2026-11-28


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
    if raw.get("request") != locks.request_key(recipe, folder):
        raise UserError(
            f"{where}: is the mirror of other inputs than this recipe's corpora and limits (relative bases start in "
            f"{folder.absolute()}); mirror these with python -m pipelines.download"
        )
    return locks.loads(canonical_json.dumps(raw["lock"]), where)
