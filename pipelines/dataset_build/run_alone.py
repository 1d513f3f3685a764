"""Units one after the other in the process of the build, without Ray, where one worker is all that they are worth: the
start of a Ray and of its worker takes as much processor time as tokenizing 100 MB (docs/log.md).

A worker of Ray's is killed in the place of the build by what takes a process down. That is worth its start where work
is long, reads over a network, or runs code of the user's: such units never run here. All else is as it is there: which
faults are tried again, what is shown, what a signal does, and every byte.
"""

import contextlib
import gc
import math
import time
from collections import deque
from collections.abc import Sequence

from bamba_data.errors import BambaError, BudgetExceeded, Unfinished
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.storage.store import LocalStore
from bamba_data.tokenization.conformance import choose

from ..observe.counters import Counters
from ..observe.display import Display
from ..observe.progress import ProgressKeeper
from ..ray_jobs.executor import COLLECT_SECONDS, POLL_SECONDS, Fault, Options, stopped_by
from ..ray_jobs.machines import faults_of
from ..ray_jobs.retry import Attempts
from ..ray_jobs.session import signals_into
from .driver import Prepared
from .plan import Unit, core_seconds
from .unit import Tools, run

MAX_SECONDS = 600.0  # by estimate: longer work does not notice the start of a Ray


def is_enough(prepared: Prepared, units: Sequence[Unit], options: Options, workers: int) -> bool:
    """Whether these units can run here, of a build that would start a Ray with so many workers."""
    return (
        options.cluster is None
        and workers == 1
        and isinstance(prepared.store, LocalStore)
        and core_seconds(units) <= MAX_SECONDS
        and not any(unit.is_remote or prepared.job.sources[unit.source].transform for unit in units)
    )


def run_alone(
    prepared: Prepared,
    units: Sequence[Unit],
    options: Options,
    display: Display,
    planned: Counters,
    done_before: Counters,
) -> list[Fault]:
    """Run every unit to its end, as `TaskRunner.run` does on a cluster.

    Returns:
        The faults of the units that cannot be finished.

    Raises:
        Unfinished: The process was told to stop.
    """
    signals: list[str] = []
    faults: list[Fault] = []
    with signals_into(signals), display:
        watch = _Watch(display, planned, done_before, signals)
        gc.freeze()  # what is loaded by now stays: it need not be looked through for every few hundred documents
        try:
            with contextlib.suppress(_Told):
                _run_each(prepared, units, options, watch, faults)
        finally:
            gc.unfreeze()
            watch.show()
    return faults


class _Stopped(Unfinished):
    """A signal ended the run: no unit's fault."""


class _Told(_Stopped):
    """Nothing can be published, and what else failed soon is known."""


class _Watch:
    """Keeps count, shows it every POLL_SECONDS, and ends the run once a signal came, or at the moment `until`."""

    def __init__(self, display: Display, planned: Counters, done_before: Counters, signals: list[str]) -> None:
        self.keeper = ProgressKeeper()
        self._display, self._planned, self._done_before, self._signals = display, planned, done_before, signals
        self._next_show = 0.0
        self.until = math.inf

    def moved(self, name: str, counts: Counters) -> None:
        self.keeper.moved(name, counts)
        self.look()

    def look(self) -> None:
        if self._signals:
            raise _Stopped(stopped_by(self._signals[0]))
        if time.monotonic() >= self.until:
            raise _Told
        if time.monotonic() >= self._next_show:
            self.show()

    def show(self) -> None:
        self._next_show = time.monotonic() + POLL_SECONDS
        snapshot = self.keeper.snapshot()
        snapshot.planned, snapshot.cores = self._planned, 1
        snapshot.counts += self._done_before
        self._display.show(snapshot)

    def wait_until(self, moment: float) -> None:
        while (seconds := moment - time.monotonic()) > 0:
            self.look()
            time.sleep(min(POLL_SECONDS, seconds))


def _run_each(prepared: Prepared, units: Sequence[Unit], options: Options, watch: _Watch, faults: list[Fault]) -> None:
    """What cannot be finished goes into `faults`."""
    recipe = prepared.plan.recipe
    backend, _, _ = choose(prepared.tokenizer, recipe.tokenizer.backend)  # known since the plan was made
    fetcher = Fetcher(retry_seconds=recipe.network.retry_seconds, on_retry=lambda cause, _: watch.keeper.retried(cause))
    waiting = deque(Attempts(unit) for unit in units)
    while waiting:
        attempts = waiting.popleft()
        unit: Unit = attempts.item
        watch.wait_until(attempts.not_before)
        watch.keeper.started(unit.name)
        tools = Tools(
            prepared.store,
            fetcher,
            prepared.tokenizer,
            backend,
            scratch_folder(),
            lambda counts, name=unit.name: watch.moved(name, counts),  # type: ignore[misc]
            watch.keeper.remark,
        )
        try:
            with faults_of(""):
                record = run(unit, prepared.job, tools)
        except _Stopped:
            raise
        except BambaError as fault:
            if attempts.failed(fault, is_only_machine=True, retry_seconds=recipe.network.retry_seconds):
                watch.keeper.retried(type(fault).__name__)
                attempts.wait()
                waiting.append(attempts)
                continue
            watch.keeper.ended(unit.name, None)
            faults.append(Fault(unit.name, fault))
            if options.fail_fast:
                return
            if isinstance(fault, BudgetExceeded):  # nothing can be published: what else fails soon is told as well
                watch.until = min(watch.until, time.monotonic() + COLLECT_SECONDS)
        else:
            watch.keeper.ended(unit.name, Counters.of(record.ledger, unit.size_bytes))
        watch.look()  # a signal may have come after its last batch
