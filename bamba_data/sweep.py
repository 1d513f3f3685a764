"""Orphans: objects below a dataset's URL that no published version names. Found first, removed only when asked.

Nothing is removed that is young by the store's own clock, nor what a young record of a finished unit names: a build
that goes on will publish it. While a build holds a lease nothing is removed at all: its staged work looks exactly
like an orphan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bamba_data import canonical
from bamba_data import manifest as manifests
from bamba_data.dataset import Dataset, lock_path, open_dataset, tokenizer_path
from bamba_data.errors import CorruptManifest, DatasetNotFound, UserError
from bamba_data.publish import versions
from bamba_data.store import Entry, Store, now, open_store

LEASES = "_bamba/leases"
UNITS = "_bamba/units"
RUNS = "_bamba/runs/"  # how each run went, and whether it may be tried again: of no version, and kept
LEASE_LIVES_SECONDS = 900.0
DEFAULT_GRACE_SECONDS = 7 * 86400.0
MAX_RECORD_BYTES = 64 << 20


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: `orphans` may go; `young` are unreferenced too but within the grace; `leases` are builds
    that are running, and keep everything. `versions` are those whose files were kept."""

    orphans: list[Entry]
    young: list[Entry]
    leases: list[str]
    kept: int
    versions: list[int]


def find(url: str, grace_seconds: float = DEFAULT_GRACE_SECONDS) -> Sweep:
    store = open_store(url)
    if next(store.list(), None) is None:
        raise DatasetNotFound(f"{store.url}: there is nothing here")
    clock = now(store, "_bamba/tmp")
    listed = list(store.list())  # before the versions: what was published meanwhile is then known to be in use
    known = versions(store)
    referenced = {path for number in known for path in _references(open_dataset(url, number))}
    loose = [entry for entry in listed if entry.path not in referenced and _is_ours(entry)]
    leases = [entry.path for entry in loose if _is_lease(entry, clock)]
    young = {entry.path for entry in loose if clock - entry.modified < grace_seconds}
    young |= {path for record in young if record.startswith(f"{UNITS}/") for path in _staged(store, record)}
    loose = sorted((entry for entry in loose if entry.path not in leases), key=lambda entry: entry.path)
    return Sweep(
        orphans=[entry for entry in loose if entry.path not in young],
        young=[entry for entry in loose if entry.path in young],
        leases=leases,
        kept=len(listed) - len(loose) - len(leases),
        versions=known,
    )


def remove(url: str, found: Sweep) -> int:
    """Remove the orphans that `find` found. Refuses while a build runs, or if there is a new version since.

    Records of units go first: one that is left behind, should this be killed, must not name files that are gone.
    """
    store = open_store(url)
    clock = now(store, "_bamba/tmp")
    if leases := found.leases or [entry.path for entry in store.list(LEASES) if _is_lease(entry, clock)]:
        raise UserError(f"{url}: a build is running ({', '.join(leases)}): its staged work must stay; wait for it")
    if versions(store) != found.versions:
        raise UserError(f"{url}: a version was published since these orphans were found; look for them again")
    for entry in sorted(found.orphans, key=lambda entry: not entry.path.startswith(f"{UNITS}/")):
        store.delete(entry.path)
    return len(found.orphans)


def _is_ours(entry: Entry) -> bool:
    return entry.path.startswith(("_bamba/", "dataset=")) and not entry.path.startswith(RUNS)


def _is_lease(entry: Entry, clock: float) -> bool:
    return entry.path.startswith(f"{LEASES}/") and clock - entry.modified < LEASE_LIVES_SECONDS


def _staged(store: Store, record: str) -> Iterator[str]:
    """The files that the record of a part or of a unit names; none, if the record cannot be read."""
    try:
        raw: Any = canonical.loads(store.read(record), record, MAX_RECORD_BYTES)
        for part in raw.get("parts", [raw]):
            yield from (part[kind]["path"] for kind in ("shard", "letters") if part[kind])
    except (FileNotFoundError, CorruptManifest, KeyError, TypeError, AttributeError):
        return


def _references(dataset: Dataset) -> Iterator[str]:
    """Everything that a version needs."""
    manifest = dataset.manifest
    yield f"_bamba/versions/{dataset.version.number:06d}.json"
    yield manifests.path_of(manifest.digest)
    for table in (
        manifest.tables.files,
        manifest.tables.shards,
        manifest.tables.blocks,
        manifest.tables.candidates,
        manifest.tables.dead_letters,
    ):
        yield manifests.table_path(table.sha256)
    yield tokenizer_path(manifest.tokenizer.sha256)
    yield lock_path(dataset.version.lock)
    yield from _pointers(dataset)
    yield from dataset.shards["path"]
    yield from dataset.dead_letters["path"]


def _pointers(dataset: Dataset) -> Iterator[str]:
    """The pointers to this version's lock: without them the next build would resolve everything anew."""
    for entry in dataset.store.list("_bamba/locks"):
        if entry.path.endswith(".pointer") and dataset.store.read(entry.path).decode().strip() == dataset.version.lock:
            yield entry.path
