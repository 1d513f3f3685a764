"""A build, apart from where its units run: lock, plan and certify before; assemble and publish after.

    prepare ──▶ remaining units, run by pipelines.tokenize on Ray (or by `run_here`) ──▶ finish

Everything that a build decides once (the lock) is frozen in the store first, so that the same command goes on
where an earlier one was, on any machine.
"""

import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bamba_data import canonical_json
from bamba_data.errors import BambaError, BudgetExceeded, CorruptManifest, DatasetNotFound, UserError
from bamba_data.format import plan_records
from bamba_data.format.dataset import (
    RELOCK,
    Pointer,
    open_dataset,
    pointed_at,
    read_named,
)
from bamba_data.format.fence import Fence, shared
from bamba_data.format.layout import lock_path, pointer_path, tokenizer_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version, publish, read_version
from bamba_data.locking import drift
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Recipe
from bamba_data.records import unseal
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.tokenizer import Tokenizer

from ..observe.counters import Counters
from ..observe.lock_progress import Tick, silent
from . import plan as plans
from . import plan_history
from .assemble import assemble
from .plan import Job, Plan, Unit
from .publishing import check_published, check_unpublished
from .reuse import taken_over
from .staged_records import Staging
from .unit import Tools, run, unheard

MIRROR = "mirror.json"
MIRROR_FORMAT = "bamba-mirror/2"
UNSEALED_MIRROR = "bamba-mirror/1"  # of before 2026-11-28


@dataclass(frozen=True)
class Prepared:
    """A build that is ready to run. `remarks` are lines for people: what was passed over, what is not reused."""

    store: Store
    tokenizer: Tokenizer
    certificate: Certificate
    plan: Plan
    lock_digest: str
    job: Job
    build: str
    remarks: tuple[str, ...]

    def remaining(self) -> list[Unit]:
        """The units without a record, in the order in which to start them."""
        finished = set(Staging(self.store).finished())
        return [unit for unit in self.plan.starting_order() if unit.key not in finished]


def prepare(
    recipe: Recipe,
    folder: Path,
    out: str,
    fetcher: Fetcher,
    mirror: str | None = None,
    relock: bool = False,
    tick: Tick = silent,
) -> Prepared:
    """Lock (or find the lock), plan, choose and certify the backend. Writes only the lock, the tokenizer and a record
    of the plan; whoever builds in earnest has the fence by then.

    Args:
        recipe: What to build.
        folder: Where relative paths of the recipe start.
        out: The URL of the dataset.
        fetcher: Resolves the inputs and reads the tokenizer.
        mirror: The URL of a finished mirror to read from, in place of the upstream hosts.
        relock: Resolve the inputs anew, although an earlier run froze them.
        tick: Is told of every name that is looked up: (done, total).

    Raises:
        UserError: The recipe cannot be built as it is, or the mirror is another recipe's.
        CorruptManifest: The lock or the mirror's record is damaged.
        InputChanged: An input is not what an earlier build learned of it.
    """
    store = open_store(out)
    tokenizer = locks.load_tokenizer(recipe, folder, fetcher)
    inputs = frozen_lock(recipe, folder, store, fetcher, mirror, relock, tick)
    plan = taken_over(plans.make(recipe, inputs.lock, tokenizer.sha256), store)
    _, certificate, passed_over = choose(tokenizer, recipe.tokenizer.backend)
    store.put(tokenizer_path(tokenizer.sha256), tokenizer.data)
    changed = plan_history.remark(store, plan, tokenizer.sha256, inputs.digest)
    remarks = (*passed_over, *(remark for remark in (inputs.remark, changed) if remark))
    job = Job(recipe, inputs.lock.sources, tokenizer.sha256, certificate, out)
    return Prepared(store, tokenizer, certificate, plan, inputs.digest, job, secrets.token_hex(8), remarks)


class Frozen(NamedTuple):
    """A lock as it lies in the store, under `digest`; `lock` is bound to what was learned, and to the mirror. `remark`
    is a line for people where an earlier run froze it: since when, and what changed in its inputs since then."""

    lock: Lock
    digest: str
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

    Arguments and errors are those of `prepare`.
    """
    if mirror is not None and not mirror.strip():
        raise UserError("--mirror is empty: give the place of a mirror, or leave it out")
    pointer = pointer_path(locks.request_key(recipe, folder))
    digest = earlier_one = None if relock else pointed_at(store, pointer)
    if digest is None:
        fresh = mirrored_lock(recipe, folder, mirror) if mirror else locks.resolve(recipe, folder, fetcher, tick)
        digest = fresh.digest
        store.put(lock_path(digest), canonical_json.dumps(fresh.to_json()))
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
    return Frozen(lock.moved_to(mirror) if mirror else lock, digest, "; ".join(remarks) or None)


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


def finish(prepared: Prepared, fence: Fence | None = None) -> tuple[Version, Manifest]:
    """Assemble what the units left, verify it (without bodies) and publish it, under the fence.

    Raises:
        UnitsLost: Some units are not finished, or their work is damaged: they must run again.
        BudgetExceeded: There are more bad records than the recipe allows.
        IntegrityError: What was assembled does not verify; nothing was published.
        FenceLost: A sweep took the fence meanwhile.
    """
    if fence is None:
        with shared(prepared.store) as taken:
            return finish(prepared, taken)
    store = prepared.store
    manifest = assemble(prepared.plan, store, prepared.tokenizer)

    def check() -> None:
        if not plan_history.is_recorded(store, prepared.plan):
            mine = plan_history.planned_as(prepared.plan, prepared.tokenizer.sha256, prepared.lock_digest)
            plan_records.save(store, prepared.plan.digest, mine)
        plan_records.save_built(store, manifest.digest, prepared.plan.digest)
        fence.check()
        check_unpublished(prepared.plan, store, manifest, prepared.lock_digest)
        fence.check()  # a sweep that came between would have deposed us

    version = publish(store, manifest, prepared.build, prepared.lock_digest, check)
    check_published(store, version, fence)
    return version, manifest


def run_here(
    prepared: Prepared,
    fetcher: Fetcher,
    report: Callable[[Counters], None] = unheard,
    remark: Callable[[str], None] = unheard,
) -> list[BambaError]:
    """Run the remaining units one after the other in this process, without Ray.

    Returns:
        The faults of the units that failed; after a BudgetExceeded none is started.
    """
    faults: list[BambaError] = []
    with tempfile.TemporaryDirectory(prefix="bamba-scratch-") as scratch:
        backend = prepared.tokenizer.backend(prepared.job.backend)
        tools = Tools(prepared.store, fetcher, prepared.tokenizer, backend, Path(scratch), report, remark)
        for unit in prepared.remaining():
            try:
                run(unit, prepared.job, tools)
            except BambaError as fault:
                faults.append(fault)
                if isinstance(fault, BudgetExceeded):
                    break  # it cannot be published, whatever the others are
    return faults
