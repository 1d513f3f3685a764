"""Orphans: objects below a dataset's URL that no published version names. Found first, removed only when asked.

Nothing is removed that is young by the store's own clock, nor anything at all while a build holds a lease: staged
work of a build that will go on looks exactly like an orphan.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bamba_data import manifest as manifests
from bamba_data.dataset import Dataset, open_dataset, tokenizer_path
from bamba_data.errors import UserError
from bamba_data.publish import versions
from bamba_data.store import Entry, now, open_store

LEASES = "_bamba/leases"
LEASE_LIVES_SECONDS = 900.0
DEFAULT_GRACE_SECONDS = 7 * 86400.0


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: `orphans` may go; `young` are unreferenced too but within the grace; `leases` are builds
    that are running, and keep everything."""

    orphans: list[Entry]
    young: list[Entry]
    leases: list[str]
    kept: int


def find(url: str, grace_seconds: float = DEFAULT_GRACE_SECONDS) -> Sweep:
    store = open_store(url)
    clock = now(store, "_bamba/tmp")
    referenced = {path for number in versions(store) for path in _references(open_dataset(url, number))}
    leases, orphans, young, kept = [], [], [], 0
    for entry in store.list():
        age = clock - entry.modified
        if entry.path in referenced:
            kept += 1
        elif entry.path.startswith(f"{LEASES}/") and age < LEASE_LIVES_SECONDS:
            leases.append(entry.path)
        elif not entry.path.startswith(("_bamba/", "dataset=")):
            kept += 1  # not ours
        elif age < grace_seconds:
            young.append(entry)
        else:
            orphans.append(entry)
    by_path = sorted(orphans, key=lambda entry: entry.path)
    return Sweep(by_path, sorted(young, key=lambda entry: entry.path), leases, kept)


def remove(url: str, found: Sweep) -> int:
    """Remove the orphans that `find` found. Refuses while a build runs. Returns how many went."""
    if found.leases:
        raise UserError(
            f"{url}: a build is running ({', '.join(found.leases)}): its staged work must stay; wait for it"
        )
    store = open_store(url)
    for entry in found.orphans:
        store.delete(entry.path)
    return len(found.orphans)


def _references(dataset: Dataset) -> Iterator[str]:
    """Everything that a version needs."""
    manifest = dataset.manifest
    yield f"_bamba/versions/{dataset.version.number:06d}.json"
    yield manifests.path_of(manifest.digest)
    for table in (
        manifest.tables.files,
        manifest.tables.shards,
        manifest.tables.blocks,
        manifest.tables.dead_letters,
    ):
        yield manifests.table_path(table.sha256)
    yield tokenizer_path(manifest.tokenizer.sha256)
    yield f"_bamba/locks/{dataset.version.lock}.json"
    yield from _pointers(dataset)
    yield from dataset.shards["path"]
    yield from dataset.dead_letters["path"]


def _pointers(dataset: Dataset) -> Iterator[str]:
    """The pointers to this version's lock: without them the next build would resolve everything anew."""
    for entry in dataset.store.list("_bamba/locks"):
        if entry.path.endswith(".pointer") and dataset.store.read(entry.path).decode().strip() == dataset.version.lock:
            yield entry.path
