"""A build, apart from where its units run: lock, plan and certify before; assemble and publish after.

    prepare ──▶ remaining units, run by pipelines.tokenize on Ray (or by `run_here`) ──▶ finish

Everything that a build decides once (the lock) is frozen in the store first, so that the same command goes on
where an earlier one was, on any machine.
"""

import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bamba_data.card.refresh import refresh_and_say
from bamba_data.errors import BambaError, BudgetExceeded, IntegrityError
from bamba_data.format import plan_records
from bamba_data.format.fence import Fence, shared
from bamba_data.format.layout import tokenizer_path
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version, publish
from bamba_data.locking import lock as locks
from bamba_data.recipe import Recipe
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate, choose
from bamba_data.tokenization.tokenizer import Tokenizer

from ..observe.counters import Counters
from ..observe.lock_progress import Tick, silent
from . import plan as plans
from . import plan_history
from .assemble import assemble
from .frozen_lock import Frozen, frozen_lock
from .plan import Job, Plan, Unit
from .publishing import check_published, check_unpublished, refuse_over_derived
from .reuse import taken_over
from .staged_records import Staging
from .unit import Tools, run, unheard


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
        UserError: The recipe cannot be built as it is, the mirror is another recipe's, or the newest version there was
            derived from others.
        CorruptManifest: The lock or the mirror's record is damaged.
        InputChanged: An input is not what an earlier build learned of it.
    """
    store = open_store(out)
    refuse_over_derived(store)
    tokenizer = locks.load_tokenizer(recipe, folder, fetcher)
    inputs = frozen_lock(recipe, folder, store, fetcher, mirror, relock, tick)
    return prepared_for(out, tokenizer, inputs)


def prepared_for(out: str, tokenizer: Tokenizer, inputs: Frozen) -> Prepared:
    """Plan, choose and certify the backend, for inputs that are locked."""
    store, recipe = open_store(out), inputs.recipe
    plan, _ = taken_over(plans.make(recipe, inputs.lock, tokenizer.sha256), store)
    _, certificate, passed_over = choose(tokenizer, recipe.tokenizer.backend)
    store.put(tokenizer_path(tokenizer.sha256), tokenizer.data)
    changed = plan_history.remark(store, plan, tokenizer.sha256, inputs.digest)
    remarks = (*passed_over, *(remark for remark in (inputs.remark, changed) if remark))
    job = Job(recipe, inputs.lock.sources, tokenizer.sha256, certificate, out, inputs.code)
    return Prepared(store, tokenizer, certificate, plan, inputs.digest, job, secrets.token_hex(8), remarks)


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

    try:
        version = publish(store, manifest, prepared.build, prepared.lock_digest, check)
    except IntegrityError:
        fence.check()  # a sweep that came while we were suspended removed what is missed: then we were deposed
        raise
    check_published(store, version, fence)
    refresh_and_say(store)
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
