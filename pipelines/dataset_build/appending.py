"""Append: the inputs of a recipe that a dataset does not have yet become a version of it.

    prepare_append ──▶ units of new inputs alone, run as in any build ──▶ finish_append

New inputs are those of the recipe, resolved now, whose source and path the newest version does not list. Their units
are a build of their own, whose tables are put behind those of the version that is there: its shards are the same
objects, and no input that it was made of is read again. What is the same by name but has changed is refused. Killed at
any time, the same command goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bamba_data import canonical_json
from bamba_data.derive.committing import commit
from bamba_data.derive.joining import joined
from bamba_data.derive.locks import joined_lock, lock_of
from bamba_data.derive.restating import refuse_first_format
from bamba_data.errors import UserError
from bamba_data.format import plan_records
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.fence import Fence
from bamba_data.format.layout import lock_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version
from bamba_data.locking.lock import Lock, load_tokenizer
from bamba_data.recipe import Recipe
from bamba_data.sources.base import TransformRule
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.storage.store import open_store

from ..observe.lock_progress import Tick, silent
from . import plan_history
from .assemble import assemble
from .driver import Prepared, prepared_for
from .frozen_lock import frozen_lock

SHOWN = 3
#: What of a source decides the bytes of its shards, or what may be done with them.
_DECISIVE = ("corpus", "form", "text", "compression", "where", "transform", "license", "attribution")


@dataclass(frozen=True)
class Appending:
    """`prepared` is the build of the new inputs; None if there are none. `parent` is the version that they follow."""

    parent: Dataset
    prepared: Prepared | None
    files: int
    remarks: tuple[str, ...]


def prepare_append(recipe: Recipe, folder: Path, out: str, fetcher: Fetcher, tick: Tick = silent) -> Appending:
    """Resolve the recipe's inputs anew and plan those that are new.

    Args:
        recipe: Of the same or other inputs, by the same tokenizer.
        folder: Where relative paths of the recipe start.
        out: The URL of the dataset; the caller has its fence.
        fetcher: Resolves the inputs and reads the tokenizer.
        tick: Is told of every name that is looked up: (done, total).

    Raises:
        UserError: Nothing is published at `out`, the tokenizer is another one, or inputs or a source of a name that is
            there have changed.
    """
    parent = open_dataset(out)
    refuse_first_format(parent)
    tokenizer = load_tokenizer(recipe, folder, fetcher)
    if tokenizer.sha256 != parent.manifest.tokenizer.sha256:
        raise UserError(
            f"tokenizer.url: {recipe.tokenizer.url} has sha256 {tokenizer.sha256[:16]}, the dataset at {out} was made "
            f"with {parent.manifest.tokenizer.sha256[:16]}: its ids do not mean the same"
        )
    frozen = frozen_lock(recipe, folder, open_store(out), fetcher, relock=True, tick=tick)
    known_lock = lock_of(parent)
    _check_sources(known_lock, frozen.lock)
    files = {
        (source, path): (size, digest, quarantined)
        for source, path, size, digest, quarantined in parent.files.select(
            "source", "path", "size_bytes", "sha256", "quarantined"
        ).iter_rows()
    }
    _check_unchanged(parent, frozen.lock, files)
    new = [file for file in frozen.lock.files if (file.source, file.path) not in files]
    remarks = tuple(_remarks(parent, frozen.lock, files))
    if not new:
        return Appending(parent, None, 0, remarks)
    fresh = _of_files(frozen.lock, new)
    whole = joined_lock([known_lock, fresh])
    parent.store.put(lock_path(whole.digest), whole.data)
    prepared = prepared_for(out, tokenizer, frozen._replace(lock=fresh, digest=whole.digest, remark=None))
    return Appending(parent, prepared, len(new), remarks)


def finish_append(appending: Appending, fence: Fence) -> tuple[Version, Manifest]:
    """Put the new units' tables behind those of the parent, verify and publish. Errors are those of `driver.finish`."""
    prepared, parent = appending.prepared, appending.parent
    assert prepared is not None
    store = prepared.store
    part = assemble(prepared.plan, store, prepared.tokenizer)
    draft = Dataset(store, Version(0, part.digest, "", prepared.lock_digest, ""), part)
    recipe = canonical_json.dumps(prepared.plan.recipe.model_dump(mode="json", exclude={"network"})).decode()
    manifest = joined(store, [parent, draft], "append", {"recipe": recipe.strip()}, [parent])
    plan_records.save_built(store, manifest.digest, prepared.plan.digest)
    if not plan_history.is_recorded(store, prepared.plan):
        mine = plan_history.planned_as(prepared.plan, prepared.tokenizer.sha256, prepared.lock_digest)
        plan_records.save(store, prepared.plan.digest, mine)
    fresh = set(draft.shards["path"])
    version = commit(store, manifest, prepared.lock_digest, fence, parent.version.number, fresh, parent)
    return version, manifest


def _check_sources(known: Lock, now: Lock) -> None:
    for name in known.sources.keys() & now.sources.keys():
        for field in _DECISIVE:
            before, after = getattr(known.sources[name], field), getattr(now.sources[name], field)
            if before != after:
                before, after = (
                    str(said) if isinstance(said, TransformRule) else repr(said) for said in (before, after)
                )
                raise UserError(
                    f"source {name}: {field} is {after} in the recipe, {before} in the dataset: give the new "
                    "inputs a source of another name"
                )


def _check_unchanged(
    parent: Dataset, lock: Lock, files: Mapping[tuple[str, str], tuple[int | None, str | None, bool]]
) -> None:
    changed = []
    for file in lock.files:
        size, digest, _ = files.get((file.source, file.path), (None, None, False))
        facts = file.facts
        if size is not None and facts.size_bytes not in (None, size):
            changed.append(f"{file.key} has {facts.size_bytes:,} bytes, it had {size:,}")
        elif digest is not None and facts.sha256 not in (None, digest):
            changed.append(f"{file.key} has sha256 {facts.sha256[:16]}, it had {digest[:16]}")
    if changed:
        more = f" and {len(changed) - SHOWN:,} more" if len(changed) > SHOWN else ""
        raise UserError(
            f"inputs that {parent.store.url} was made of have changed: {'; '.join(changed[:SHOWN])}{more}. Append "
            "takes new inputs alone: give changed ones another name, or build at another place"
        )


def _remarks(
    parent: Dataset, lock: Lock, files: Mapping[tuple[str, str], tuple[int | None, str | None, bool]]
) -> list[str]:
    listed = {(file.source, file.path) for file in lock.files}
    gone = [f"{source}/{path}" for source, path in files if source in lock.sources and (source, path) not in listed]
    remarks = []
    if gone:
        remarks.append(
            f"{len(gone):,} inputs of version {parent.version.number} are not in the recipe ({gone[0]}): they stay"
        )
    left_out = [f"{source}/{path}" for (source, path), facts in files.items() if facts[2] and (source, path) in listed]
    if left_out:
        remarks.append(f"{len(left_out):,} inputs were left out by quarantine ({left_out[0]}): they stay out")
    return remarks


def _of_files(lock: Lock, files: list[LockedFile]) -> Lock:
    """A lock of some of its files."""
    names = {file.source for file in files}
    sources = {name: source for name, source in lock.sources.items() if name in names}
    revisions = {name: commit for name, commit in lock.revisions.items() if name in names}
    return Lock(sources, revisions, tuple(files))
