"""The lock of a recipe in a store: resolved once and frozen, so that every later run, anywhere, reads the same inputs.

A pointer, named for what was asked for, names the lock by its digest. What a published version learned of the inputs
(their sha256) binds the lock, and so does a mirror.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bamba_data.errors import CorruptManifest, DatasetNotFound, UserError
from bamba_data.filtering.transform_source import Code, pinned
from bamba_data.format.dataset import RELOCK, Pointer, open_dataset, pointed_at, read_named
from bamba_data.format.layout import lock_path, pointer_path
from bamba_data.format.versions import read_version
from bamba_data.locking import drift
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Recipe
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts
from bamba_data.storage.store import Store

from ..observe.lock_progress import Tick, silent
from .mirror_file import mirrored_lock


class Frozen(NamedTuple):
    """A lock as it lies in the store, under `digest`; `lock` is bound to what was learned, and to the mirror. `recipe`
    is what was asked for, with its transforms pinned, and `code` their sources. `remark` is a line for people where an
    earlier run froze it: since when, and what changed in its inputs since then."""

    lock: Lock
    digest: str
    recipe: Recipe
    code: Code
    remark: str | None = None


def frozen_lock(
    recipe: Recipe,
    folder: Path,
    store: Store,
    fetcher: Fetcher,
    mirror: str | None = None,
    relock: bool = False,
    tick: Tick = silent,
) -> Frozen:
    """The lock of this recipe in this store: the one that an earlier run froze, else resolved now and frozen.

    Arguments and errors are those of `driver.prepare`.
    """
    if mirror is not None and not mirror.strip():
        raise UserError("--mirror is empty: give the place of a mirror, or leave it out")
    recipe, code = pinned(recipe, folder)
    pointer = pointer_path(locks.request_key(recipe, folder))
    digest = earlier_one = None if relock else pointed_at(store, pointer)
    if digest is None:
        fresh = mirrored_lock(recipe, folder, mirror) if mirror else locks.resolve(recipe, folder, fetcher, tick)
        digest = fresh.digest
        store.put(lock_path(digest), fresh.data)
        if relock:
            store.put(pointer, Pointer(digest).sealed())
        elif not store.create(pointer, Pointer(digest).sealed()):
            digest = pointed_at(store, pointer) or digest  # another build froze it first: theirs is the lock
    try:
        data = read_named(store, lock_path(digest), digest, locks.MAX_BYTES)
    except CorruptManifest as error:
        raise CorruptManifest(error.where, f"{error.detail}; {RELOCK}") from None
    lock = locks.loads(data, f"{store.url}/{lock_path(digest)}")
    remarks: list[str] = []
    if not relock:
        learned, unknown = _learned(store)
        lock = lock.bound_to(learned)
        remarks += [unknown] if unknown else []
    if earlier_one is not None and (entry := store.stat(pointer)) is not None:
        changes = None if mirror else drift.changes(lock, recipe, folder, fetcher)
        remarks.append(drift.said(lock, digest, entry.modified, changes))
    return Frozen(lock.moved_to(mirror) if mirror else lock, digest, recipe, code, "; ".join(remarks) or None)


def _learned(store: Store) -> tuple[Mapping[str, Facts], str | None]:
    """The sha256s that the newest published version in this store learned, by key of the input; and a remark, where
    that version is damaged: to build again may be what repairs it."""
    try:
        version = read_version(store)
    except DatasetNotFound:
        return {}, None
    try:
        files = open_dataset(store.url, version.number).files
    except (CorruptManifest, DatasetNotFound) as error:
        return {}, f"what version {version.number} learned of the inputs cannot be read, and binds nothing: {error}"
    known = {
        f"{row['source']}/{row['path']}": Facts(row["size_bytes"], None, row["sha256"])
        for row in files.iter_rows(named=True)
        if row["sha256"]
    }
    return known, None
