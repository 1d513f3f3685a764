"""Run idempotent tasks on a Ray cluster, a bounded number at once, each until it succeeds or is given up.

A task may run zero, one or several times, at once: workers are killed, nodes vanish, replies are lost. So the tasks
that run here leave their results in the store, under names made of their content; what they return is only news.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bamba_data.errors import (
    BambaError,
    BudgetExceeded,
    IntegrityError,
    MachineFault,
    Unfinished,
    WorkerFault,
)

from ..observe.counters import Counters
from ..observe.display import Display
from ..observe.progress import Snapshot, Unheard
from .connection import plain_line
from .machines import MAX_FAULTS, PAUSE_SECONDS, Machines, alive, elsewhere, on_a_machine
from .retry import MAX_CRASHES, Attempts

POLL_SECONDS = 0.5
COLLECT_SECONDS = 5.0
LOOK_SECONDS = 5.0  # between looks at which machines are there
STRAGGLER_SECONDS = 60.0  # a task that runs for less gets no second copy

#: `submit(item, options, progress)` starts the task of an item.
Submit = Callable[[Any, Mapping[str, Any], Any], Any]


class Item(Protocol):
    """What a task works on."""

    @property
    def name(self) -> str: ...

    @property
    def is_remote(self) -> bool:
        """Read over a network, so that wrong bytes may be right the next time."""


@dataclass(frozen=True)
class Options:
    """Where and how to run; nothing here can change a byte of what is made.

    Attributes:
        address: A running cluster; RAY_ADDRESS, or a Ray started here, without it.
        workers: Tasks at once; as many as there are cores without it.
        fail_fast: End at the first task that is given up.
        straggler_seconds: What the last tasks must have run for before they get a second copy.
    """

    address: str | None = None
    workers: int | None = None
    fail_fast: bool = False
    straggler_seconds: float = STRAGGLER_SECONDS

    @property
    def cluster(self) -> str | None:
        """The address of the cluster that the job joins; None where it starts a Ray of its own."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


@dataclass(frozen=True)
class Fault:
    """A task that failed for good."""

    name: str
    error: BambaError


class Failed(BambaError):
    """Some tasks failed for good; the others are done and kept."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults
        self.exit_code = max(fault.error.exit_code for fault in faults)
        self.of_environment = all(fault.error.of_environment for fault in faults)

    def __str__(self) -> str:
        lines = [f"{len(self.faults)} failed; the others are done and kept, nothing was published:"]
        lines += [f"  {fault.name}: {fault.error}" for fault in self.faults]
        if any(isinstance(fault.error, IntegrityError) for fault in self.faults):
            lines.append("restore the inputs, or leave one out, and say so in the dataset: --quarantine SOURCE/PATH")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Running:
    """A task on the cluster, which must not run on the `excluded` nodes."""

    attempts: Attempts
    since: float
    excluded: frozenset[str]


@dataclass
class TaskRunner:
    """A connection to a cluster, with the actor that all tasks share, under its two roles: `rate_limit` hands out
    requests to hosts, `progress` keeps count. Made by `session.task_runner`."""

    rate_limit: Any
    progress: Any
    max_in_flight: int | None
    retry_seconds: float = 900.0
    straggler_seconds: float = STRAGGLER_SECONDS
    #: Names of signals that came: filled by a handler, looked at between two waits.
    signals: list[str] = field(default_factory=list)
    machines: Machines = field(default_factory=Machines)
    _usable: set[str] = field(default_factory=set)
    _next_look: float = 0.0
    _running: dict[Any, _Running] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)

    def task(self, work: Callable[..., Counters], task_bytes: int) -> Any:
        """`work(item, …, progress)` as a remote function that says where it ran and asks for `task_bytes` of memory, or
        for all that the largest machine has: Ray would otherwise wait for ever for a larger one."""
        import ray

        largest = max((int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if 0 < largest < task_bytes:
            self.progress.remark.remote(
                f"a task may need {task_bytes >> 20:,} MiB, the largest machine offers {largest >> 20:,}: one runs "
                "there at a time, and may be killed for memory; give the machines more, or lower "
                "bad_input.max_document_bytes"
            )
        return ray.remote(max_retries=0, memory=min(task_bytes, largest))(on_a_machine(work))

    def run(
        self,
        items: Sequence[Item],
        submit: Submit,
        display: Display,
        planned: Counters,
        done_before: Counters,
        fail_fast: bool = False,
    ) -> list[Fault]:
        """Run every item to its end.

        Args:
            items: In the order in which to start them.
            submit: Starts a task made by `task`, whose result is the item's exact Counters.
            display: Is shown a snapshot every POLL_SECONDS.
            planned: Units and input bytes of the whole job.
            done_before: Those of them that earlier attempts finished; `items` are the others.
            fail_fast: End at the first item that is given up.

        Returns:
            The faults of the items that cannot be finished.

        Raises:
            Unfinished: The process was told to stop, or no machine is left that can work (NoMachineLeft).
        """
        import ray

        waiting = [Attempts(item) for item in reversed(items)]  # from the end: the first item is the next
        faults: list[Fault] = []
        next_show = 0.0
        try:
            while waiting or self._running:
                self._look_at_machines()
                self._launch(waiting, submit)
                if not waiting:
                    self._launch_copies(submit)
                running = list(self._running)
                ended, _ = ray.wait(running, num_returns=1, timeout=POLL_SECONDS) if running else ([], [])
                if not running:  # all wait for their next try: ray.wait refuses an empty list
                    time.sleep(POLL_SECONDS)
                faults += self._collect(ended, waiting)
                if time.monotonic() >= next_show:
                    next_show = time.monotonic() + POLL_SECONDS
                    display.show(self._snapshot(planned, done_before))
                if self.signals:
                    raise Unfinished(stopped_by(self.signals[0]))
                if any(isinstance(fault.error, BudgetExceeded) for fault in faults):
                    # Nothing can be published, so nothing more is started. What else fails within a few seconds is
                    # told in the same run, so that all of it can be put right at once.
                    ended, _ = ray.wait(running, num_returns=len(running), timeout=COLLECT_SECONDS)
                    return faults + self._collect(ended, [])
                if faults and fail_fast:
                    return faults
        finally:
            for ref in self._running:
                ray.cancel(ref, force=True)
            self._running.clear()
        display.show(self._snapshot(planned, done_before))
        return faults

    def _look_at_machines(self, now: bool = False) -> None:
        """See which machines are there, and call back what waits for others."""
        import ray

        if not now and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        there = alive()
        self._usable = self.machines.usable(there)
        for ref, running in self._running.items():
            if running.excluded and there and not there - running.excluded:
                running.attempts.avoid.clear()
                ray.cancel(ref, force=True)

    def _launch(self, waiting: list[Attempts], submit: Submit) -> None:
        slots = self.max_in_flight or 2 * _cluster_cores() + 1  # Ray starts what has a core, the rest waits there
        later = []
        while waiting and len(self._running) < slots:
            attempts = waiting.pop()
            if attempts.not_before > time.monotonic():
                later.append(attempts)
            else:
                self._start(attempts, submit, self.progress, attempts.avoid)
        waiting.extend(reversed(later))

    def _launch_copies(self, submit: Submit) -> None:
        """The last tasks run a second time where cores are idle: the first of two to end is the one that counts, and
        the results are the same bytes. (Backup tasks of MapReduce, https://research.google/pubs/pub62/, 3.6.)"""
        import ray

        usual = statistics.median(self._seconds) if self._seconds else 0.0
        late = time.monotonic() - max(self.straggler_seconds, 2 * usual)
        for running in sorted(self._running.values(), key=lambda running: running.since):
            if len(self._running) >= min(_cluster_cores(), self.max_in_flight or 1 << 30) or running.since > late:
                return
            if len(running.attempts.tasks) > 1:
                continue
            name = running.attempts.item.name
            if node := ray.get(self.progress.place_of.remote(name)):  # it runs: it does not wait for a core
                self.progress.retried.remote("second copy")
                others = self._usable - {node}
                self._start(running.attempts, submit, Unheard(), {node} if others else set())

    def _start(self, attempts: Attempts, submit: Submit, progress: Any, avoid: set[str]) -> None:
        excluded = self.machines.left_out()
        if self._usable - excluded - avoid:
            excluded = excluded | avoid
        ref = submit(attempts.item, elsewhere(excluded), progress)
        attempts.tasks.append(ref)
        self._running[ref] = _Running(attempts, time.monotonic(), frozenset(excluded))

    def _collect(self, ended: Sequence[Any], waiting: list[Attempts]) -> list[Fault]:
        """Take the results of tasks, or queue their items again, or give them up; the faults of those."""
        faults = [self._collect_one(ref, waiting) for ref in ended if ref in self._running]
        return [fault for fault in faults if fault]

    def _collect_one(self, ref: Any, waiting: list[Attempts]) -> Fault | None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        running = self._running.pop(ref)
        attempts, name = running.attempts, running.attempts.item.name
        attempts.tasks.remove(ref)
        try:
            node, counts = ray.get(ref)
        except RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, BambaError):  # it could not even be unpickled, here or there
                cause = WorkerFault(plain_line(cause or error), "ray")
            return self._failed(attempts, cause, waiting)
        except RayError as error:  # worker killed, node lost, out of memory
            attempts.crashes += 1
            if attempts.crashes >= MAX_CRASHES and not attempts.tasks:
                died = f"{name}: its worker died {MAX_CRASHES} times ({type(error).__name__})"
                return self._given_up(name, Unfinished(died))
            self._again(attempts, waiting, type(error).__name__)
            return None
        self.machines.worked(node)
        self._seconds.append(time.monotonic() - running.since)
        for other in attempts.tasks:  # the copy that lost
            self._running.pop(other, None)
            ray.cancel(other, force=True)
        self.progress.ended.remote(name, counts)
        return None

    def _failed(self, attempts: Attempts, cause: BambaError, waiting: list[Attempts]) -> Fault | None:
        is_only_machine = not self._usable - attempts.avoid - {cause.machine}
        if isinstance(cause, MachineFault) and self.machines.failed(cause.machine, str(cause)):
            self.progress.remark.remote(
                f"left out for {PAUSE_SECONDS / 60:.0f} minutes after {MAX_FAULTS} faults: {cause}"
            )
            self._look_at_machines(now=True)
        if attempts.failed(cause, is_only_machine, self.retry_seconds) or attempts.tasks:
            self._again(attempts, waiting, type(cause).__name__)
            return None
        return self._given_up(attempts.item.name, cause)

    def _given_up(self, name: str, cause: BambaError) -> Fault:
        self.progress.ended.remote(name, None)
        return Fault(name, cause)

    def _again(self, attempts: Attempts, waiting: list[Attempts], cause: str) -> None:
        self.progress.retried.remote(cause)
        if not attempts.tasks:  # else its other copy goes on
            attempts.wait()
            waiting.append(attempts)

    def _snapshot(self, planned: Counters, done_before: Counters) -> Snapshot:
        import ray

        snapshot: Snapshot = ray.get(self.progress.snapshot.remote())
        snapshot.planned = planned
        snapshot.counts += done_before
        snapshot.cores = _cluster_cores()
        snapshot.throttled_seconds = sum(ray.get(self.rate_limit.throttled_seconds.remote()).values())
        return snapshot


def stopped_by(signal: str) -> str:
    """What is said of a run that a signal ended."""
    return f"stopped by {signal}; run the same command again to go on"


def _cluster_cores() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
