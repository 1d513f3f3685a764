"""Orphans: objects below a dataset's URL that nothing needs. Found first, removed only when asked, under the fence.

Needed is what a version names that has not expired, with the records of the units that it was made of, and the
manifests and tables (not the shards) of the versions that it was derived from: a run that began with one of those goes
on by them. Nothing is
removed that is young by the store's own clock, nor what a young record of an unpublished unit names: a build that
goes on will publish it. Removing has the fence for itself (format/fence.py): no build writes meanwhile. It
looks at everything again, and removes what was an orphan both times, asking before every batch whether the fence is
still its own and the versions are the same.

Requests: a listing (a thousand objects each), a few for each version, one for each young unit that no version has, and
one for every thousand removed.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from bamba_data.errors import (
    CorruptManifest,
    DatasetNotFound,
    StoreUnavailable,
    UnknownRecord,
    UnsafePath,
    UserError,
)
from bamba_data.format import fence, layout, plan_records, version_marks
from bamba_data.format.dataset import Dataset, open_dataset, pointed_at
from bamba_data.format.lineage import files_of_ancestors
from bamba_data.format.unit_records import PartRecord, UnitRecord
from bamba_data.format.version_marks import ALSO_WITHDRAWN
from bamba_data.format.versions import versions
from bamba_data.storage.paths import checked
from bamba_data.storage.store import DELETES_AT_ONCE, RETRY_SECONDS, Entry, Store, now, open_store

#: Of no single version: how each run went, and what is said of versions.
_KEPT_FOLDERS = (f"{layout.RUNS}/", f"{layout.VERSIONS}/", f"{layout.TAGS}/")
#: What records of parts and units name.
_STAGED_FOLDERS = (layout.SHARD_PREFIX, f"{layout.DEAD_LETTERS}/")
DEFAULT_GRACE_SECONDS = 7 * 86400.0
DEPOSITION_SECONDS = 30 * 86400.0  # a note that a holder was passed over: it must outlive any suspended machine
READS_AT_ONCE = 32
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: `orphans` may go; `young` are unreferenced too but within the grace; `leases` are builds
    that are running, and keep everything. `versions` are all that are published, expired ones too."""

    orphans: list[Entry]
    young: list[Entry]
    leases: list[str]
    kept: int
    versions: list[int]
    grace_seconds: float = DEFAULT_GRACE_SECONDS


def find(url: str, grace_seconds: float = DEFAULT_GRACE_SECONDS) -> Sweep:
    """Look for orphans; nothing is removed.

    Args:
        url: the dataset's place.
        grace_seconds: what is younger, by the store's clock, is kept.

    Raises:
        DatasetNotFound: neither a dataset nor what a build left is here.
        CorruptManifest: what a version needs cannot be known; the message says how to give it up.
    """
    store = open_store(url)
    # Before anything is written: the store's clock is read off an object, which is not to lie in somebody's own folder.
    if next(store.list(layout.OURS.rstrip("/")), None) is None:
        raise DatasetNotFound(f"{store.url}: no dataset is here, nor what a build left")
    clock = now(store, layout.CLOCK)
    needed = _needed(url, store)
    count, held, loose = 0, [], []
    for count, entry in enumerate(store.list(), 1):  # noqa: B007 (there may be none)
        if entry.path.startswith(f"{layout.LEASES}/"):
            held.append(entry)
        elif _is_ours(entry) and entry not in needed:
            loose.append(entry)
    leases = fence.alive(held, clock)
    loose += [entry for entry in held if _is_ours(entry) and entry.path not in leases]
    known = versions(store)
    if loose:  # asked once more, after the listing: what was published meanwhile is then known to be in use
        needed = _needed(url, store)
        loose = [entry for entry in loose if entry not in needed]
    young = {entry.path for entry in loose if clock - entry.modified < _grace(entry, grace_seconds)}
    young |= _staged(store, loose, young)
    loose.sort(key=lambda entry: entry.path)
    return Sweep(
        orphans=[entry for entry in loose if entry.path not in young],
        young=[entry for entry in loose if entry.path in young],
        leases=sorted(leases),
        kept=count - len(loose) - len(leases),
        versions=known,
        grace_seconds=grace_seconds,
    )


def _needed(url: str, store: Store) -> "_Needed":
    needed = _Needed(store)
    for number in version_marks.known(store).unexpired:
        needed.add(_opened(url, number))
    return needed


def remove(url: str, sweep: Sweep, tick: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Remove what is an orphan still; how many objects went.

    Records of units go first: one that is left behind, should this be killed, must not name files that are gone.

    Args:
        url: the dataset's place.
        sweep: what `find` returned.
        tick: told (removed, total) after every batch.

    Raises:
        UserError: a build runs, or a version was published since.
        FenceLost: this process slept for too long; nothing more was removed.
    """
    store = open_store(url)
    if sweep.leases:
        raise UserError(fence.running(url, sweep.leases))
    if not sweep.orphans:
        return 0
    removed = 0
    with fence.exclusive(store) as held_fence:
        _check_versions(store, sweep)
        still = set(find(url, sweep.grace_seconds).orphans)
        doomed = [entry.path for entry in sweep.orphans if entry in still]
        doomed.sort(key=lambda path: not path.startswith(f"{layout.UNITS}/"))
        for batch in _batches(doomed):
            _delete(store, sweep, held_fence, batch)
            removed += len(batch)
            tick(removed, len(doomed))
    return removed


def _delete(store: Store, sweep: Sweep, held_fence: fence.Fence, batch: list[str]) -> None:
    """Some objects, if they still may go; and again for as long as a store is tried."""
    end = time.monotonic() + RETRY_SECONDS
    while True:
        _check_versions(store, sweep)
        held_fence.check()
        try:
            return store.delete_all(batch, held_fence.check_soon)
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(fence.POLL_SECONDS)


def _batches(paths: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(paths), DELETES_AT_ONCE):
        yield paths[start : start + DELETES_AT_ONCE]


def _check_versions(store: Store, sweep: Sweep) -> None:
    if versions(store) != sweep.versions:
        raise UserError(f"{store.url}: a version was published since these orphans were found; look for them again")


def _is_ours(entry: Entry) -> bool:
    if not entry.path.startswith((layout.OURS, layout.SHARD_PREFIX)) or entry.path.startswith(_KEPT_FOLDERS):
        return False
    try:
        checked(entry.path)
    except UnsafePath:  # no name that we give
        return False
    return True


def _grace(entry: Entry, grace_seconds: float) -> float:
    return max(grace_seconds, DEPOSITION_SECONDS) if fence.is_deposition(entry.path) else grace_seconds


def _opened(url: str, number: int) -> Dataset:
    try:
        return open_dataset(url, f"{ALSO_WITHDRAWN}{number}")
    except CorruptManifest as error:
        raise CorruptManifest(
            error.where,
            f"{error.detail}; what version {number} needs is not known, so nothing was removed. Build it again, or "
            f"give it up: bamba-data expire {url} {number}",
        ) from None


class _Needed:
    """The paths that versions need, and the folders of their units."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._paths: set[str] = set()
        self._folders: set[str] = set()
        self._locks: set[str] = set()
        self._pointers: dict[str, str] | None = None

    def __contains__(self, entry: Entry) -> bool:
        if entry.path in self._paths:
            return True
        return entry.path.startswith(f"{layout.UNITS}/") and (
            "" in self._folders or "/".join(entry.path.split("/", 4)[2:4]) in self._folders
        )

    def add(self, dataset: Dataset) -> None:
        manifest = dataset.manifest
        self._paths |= {layout.version_path(dataset.version.number), layout.manifest_path(manifest.digest)}
        self._paths |= {layout.table_path(table.sha256) for table in manifest.all_tables}
        self._paths |= {layout.tokenizer_path(manifest.tokenizer.sha256), layout.lock_path(dataset.version.lock)}
        self._paths.update(dataset.shards["path"])
        self._paths.update(dataset.dead_letters["path"])
        self._paths |= {path for path, lock in self._all_pointers().items() if lock == dataset.version.lock}
        self._add_plan(manifest.digest)
        self._paths |= {file.path for file in files_of_ancestors(dataset)}

    def _add_plan(self, manifest: str) -> None:
        """Its units' records: run again, the build finds that there is nothing to do."""
        self._paths.add(layout.built_path(manifest))
        try:
            digest = plan_records.plan_of(self._store, manifest)
            if digest is None:
                return
            self._paths.add(layout.plan_path(digest))
            units = plan_records.read(self._store, layout.plan_path(digest)).units or {}
        except FileNotFoundError:
            return
        except CorruptManifest:  # which units are this version's cannot be known: so all are
            self._folders.add("")
            return
        self._folders.update(f"{source}/{key}" for source, keys in units.items() for key in keys)

    def _all_pointers(self) -> dict[str, str]:
        """The pointers to locks: without its own a version's next build would resolve everything anew."""
        if self._pointers is None:
            paths = [
                entry.path for entry in self._store.list(layout.LOCKS) if entry.path.endswith(layout.POINTER_SUFFIX)
            ]
            self._pointers = dict(_concurrently(self._pointer, paths))
        return self._pointers

    def _pointer(self, path: str) -> tuple[str, str]:
        try:
            return path, pointed_at(self._store, path) or ""
        except UnknownRecord:
            raise
        except CorruptManifest:
            return path, ""


def _staged(store: Store, loose: Iterable[Entry], young: set[str]) -> set[str]:
    """What young records of parts and units name. They are read only where anything old could be kept by it, and of a
    finished unit its own record alone."""
    if not any(entry.path not in young and entry.path.startswith(_STAGED_FOLDERS) for entry in loose):
        return set()
    records = [path for path in young if path.startswith(f"{layout.UNITS}/") and path.endswith(".json")]
    finished = {path.rpartition("/")[0] for path in records if path.endswith(f"/{layout.UNIT_NAME}")}
    wanted = [
        path for path in records if path.endswith(f"/{layout.UNIT_NAME}") or path.rpartition("/")[0] not in finished
    ]
    return {path for paths in _concurrently(lambda record: _files_of(store, record), wanted) for path in paths}


def _files_of(store: Store, path: str) -> list[str]:
    """The files that the record of a part or of a unit names; none, if it is damaged.

    Raises:
        UnknownRecord: it is whole and of another version, which may still publish what it names.
    """
    kind = UnitRecord if path.endswith(f"/{layout.UNIT_NAME}") else PartRecord
    try:
        return [file.path for file in kind.read(store, path).files]
    except UnknownRecord as error:
        raise UnknownRecord(
            path,
            f"{error.detail}; which files it needs is not known, so nothing was removed. Sweep by the version that "
            "wrote it, or when it is older than --grace-hours",
        ) from None
    except (FileNotFoundError, CorruptManifest, UnsafePath):
        return []


def _concurrently(work: Callable[[str], _T], paths: list[str]) -> list[_T]:
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return list(pool.map(work, paths))
