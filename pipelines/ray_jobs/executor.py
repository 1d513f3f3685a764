"""Ray, and nothing else: connect or start, run idempotent tasks with bounded flight and retries, stop cleanly.

A task may run zero, one or several times, at once: workers are killed, nodes vanish, replies are lost. So the tasks
that run here leave their results in the store, under names made of their content; what they return is only news.
"""

import contextlib
import functools
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from bamba_data.errors import (
    AccessDenied,
    BambaError,
    BudgetExceeded,
    IntegrityError,
    MachineFault,
    SourceUnavailable,
    StoreUnavailable,
    Unfinished,
    UserError,
    WorkerFault,
)
from bamba_data.locking.input_faults import InputFaults
from bamba_data.recipe import Network
from bamba_data.resources import FETCH_BYTES, cores, memory_bytes
from bamba_data.storage.locked_file import LockedFile

from ..observe.progress import Counts, Display, ProgressKeeper, Snapshot, Unheard
from .connection import join, not_joined, plain_line
from .machines import MAX_FAULTS, PAUSE_SECONDS, Machines, alive, elsewhere, on_a_machine
from .rate_limit_actor import BudgetKeeper

POLL_SECONDS = 0.5
TOLD_TOGETHER_SECONDS = 5.0
LOOK_SECONDS = 5.0  # between looks at which machines are there
OBJECT_STORE_BYTES = 100 << 20  # bulk data never goes through it
RAY_BYTES = 1 << 30  # what Ray's own processes and the driver take on a machine
MAX_CRASHES = 25  # of one task, in a row
MAX_TRIES = 3  # of one task that answered with an error worth another try
STRAGGLER_SECONDS = 60.0  # a task that runs for less gets no second copy

#: How long a store that does not answer is asked again for one task comes from the recipe: network.retry_seconds.
Submit = Callable[[Any, Mapping[str, Any], Any], Any]


class Item(Protocol):
    """What a task works on. They start in the order given."""

    @property
    def name(self) -> str: ...

    @property
    def is_remote(self) -> bool:
        """Read over a network, so that wrong bytes may be right the next time."""


@dataclass(frozen=True)
class Options:
    """Where and how to run; nothing here can change a byte of what is made."""

    address: str | None = None
    workers: int | None = None
    fail_fast: bool = False
    straggler_seconds: float = STRAGGLER_SECONDS


@dataclass(frozen=True, slots=True)
class OneFile:
    """A locked input, for tasks that take one each."""

    file: LockedFile

    @property
    def name(self) -> str:
        return self.file.key

    @property
    def is_remote(self) -> bool:
        return self.file.is_remote


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


@dataclass(eq=False)
class _Try:
    """An item on its way: what went wrong with it so far, and the tasks that run it now, one or two."""

    item: Any
    crashes: int = 0
    tries: int = 0
    not_before: float = 0.0
    store_lost_at: float | None = None
    avoid: set[str] = field(default_factory=set)
    flights: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class _Flight:
    attempt: _Try
    since: float
    excluded: frozenset[str]


@dataclass
class Crew:
    """A connection to a cluster, with the two actors that all tasks share."""

    budget: Any
    progress: Any
    max_in_flight: int | None
    retry_seconds: float = 900.0
    straggler_seconds: float = STRAGGLER_SECONDS
    _machines: Machines = field(default_factory=Machines)
    _usable: set[str] = field(default_factory=set)
    _next_look: float = 0.0
    _flying: dict[Any, _Flight] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _interrupted: list[str] = field(default_factory=list)

    def task(self, work: Callable[..., Counts], task_bytes: int) -> Any:
        """`work(item, …, budget, progress)` as a remote function that says where it ran and asks for its memory, as far
        as any machine has that much."""
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
        total: Mapping[str, int],
        fail_fast: bool = False,
    ) -> list[Fault]:
        """Run every item to its end; the faults of those that cannot be. `submit(item, options, progress)` starts a
        task made by `task`, whose result is the item's exact Counts. Raises Unfinished if the process is told to stop,
        or if no machine is left that can work."""
        import ray

        waiting = [_Try(item) for item in reversed(items)]  # from the end: the first item is the next
        faults: list[Fault] = []
        next_show = 0.0
        try:
            while waiting or self._flying:
                self._look()
                self._launch(waiting, submit)
                if not waiting:
                    self._launch_copies(submit)
                flying = list(self._flying)
                done, _ = ray.wait(flying, num_returns=1, timeout=POLL_SECONDS) if flying else ([], [])
                if not flying:
                    time.sleep(POLL_SECONDS)
                landed = [self._land(ref, waiting) for ref in done if ref in self._flying]
                faults += [fault for fault in landed if fault]
                if time.monotonic() >= next_show:
                    next_show = time.monotonic() + POLL_SECONDS
                    display.show(self._snapshot(total))
                if self._interrupted:
                    raise Unfinished(f"stopped by {self._interrupted[0]}; run the same command again to go on")
                if any(isinstance(fault.error, BudgetExceeded) for fault in faults):
                    return faults + self._told_with_it()
                if faults and fail_fast:
                    return faults
        finally:
            for ref in self._flying:
                ray.cancel(ref, force=True)
            self._flying.clear()
        display.show(self._snapshot(total))
        return faults

    def _told_with_it(self) -> list[Fault]:
        """Where one input is hopeless nothing can be published, so nothing more is started. What else fails within a
        few seconds is told in the same run."""
        import ray

        flying = list(self._flying)
        done, _ = ray.wait(flying, num_returns=len(flying), timeout=TOLD_TOGETHER_SECONDS) if flying else ([], [])
        found = [self._land(ref, []) for ref in done if ref in self._flying]
        return [fault for fault in found if fault]

    def _look(self, now: bool = False) -> None:
        """See which machines are there, and call back what waits for others."""
        import ray

        if not now and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        there = alive()
        self._usable = self._machines.usable(there)
        for ref, flight in self._flying.items():
            if flight.excluded and there and not there - flight.excluded:
                flight.attempt.avoid.clear()
                ray.cancel(ref, force=True)

    def _launch(self, waiting: list[_Try], submit: Submit) -> None:
        slots = self.max_in_flight or 2 * _cluster_cpus() + 1  # Ray starts what has a core, the rest waits there
        now = time.monotonic()
        held = []
        while waiting and len(self._flying) < slots:
            attempt = waiting.pop()
            if attempt.not_before > now:
                held.append(attempt)
                continue
            self._start(attempt, submit, self.progress, attempt.avoid)
        waiting.extend(reversed(held))

    def _launch_copies(self, submit: Submit) -> None:
        """The last tasks run a second time where cores are idle: the first of two to end is the one that counts, and
        the results are the same bytes."""
        import ray

        usual = statistics.median(self._seconds) if self._seconds else 0.0
        late = time.monotonic() - max(self.straggler_seconds, 2 * usual)
        for flight in sorted(self._flying.values(), key=lambda flight: flight.since):
            if len(self._flying) >= min(_cluster_cpus(), self.max_in_flight or 1 << 30) or flight.since > late:
                return
            if len(flight.attempt.flights) > 1:
                continue
            name = flight.attempt.item.name
            if node := ray.get(self.progress.place_of.remote(name)):  # it runs: it does not wait for a core
                self.progress.retried.remote("second copy")
                others = self._usable - {node}
                self._start(flight.attempt, submit, Unheard(), {node} if others else set())

    def _start(self, attempt: _Try, submit: Submit, progress: Any, avoid: set[str]) -> None:
        excluded = self._machines.left_out()
        if self._usable - excluded - avoid:
            excluded = excluded | avoid
        ref = submit(attempt.item, elsewhere(excluded), progress)
        attempt.flights.append(ref)
        self._flying[ref] = _Flight(attempt, time.monotonic(), frozenset(excluded))

    def _land(self, ref: Any, waiting: list[_Try]) -> Fault | None:
        """Take the result of a task, or queue it again, or give it up."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        flight = self._flying.pop(ref)
        attempt, name = flight.attempt, flight.attempt.item.name
        attempt.flights.remove(ref)
        try:
            node, counts = ray.get(ref)
        except RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, BambaError):  # it could not even be unpickled here or there
                cause = WorkerFault(plain_line(cause or error), "ray")
            return self._failed(attempt, cause, waiting)
        except RayError as error:  # worker killed, node lost, out of memory
            attempt.crashes += 1
            if attempt.crashes >= MAX_CRASHES and not attempt.flights:
                said = f"{name}: its worker died {MAX_CRASHES} times ({type(error).__name__})"
                return self._given_up(name, Unfinished(said))
            self._again(attempt, waiting, type(error).__name__)
            return None
        self._machines.worked(node)
        self._seconds.append(time.monotonic() - flight.since)
        for other in attempt.flights:
            self._flying.pop(other, None)
            ray.cancel(other, force=True)
        self.progress.ended.remote(name, counts)
        return None

    def _failed(self, attempt: _Try, cause: BambaError, waiting: list[_Try]) -> Fault | None:
        attempt.tries += 1
        node, alone = cause.machine, not self._usable - attempt.avoid - {cause.machine}
        if isinstance(cause, MachineFault) and self._machines.failed(node, str(cause)):
            self.progress.remark.remote(
                f"left out for {PAUSE_SECONDS / 60:.0f} minutes after {MAX_FAULTS} faults: {cause}"
            )
            self._look(now=True)
        if isinstance(cause, StoreUnavailable):
            attempt.store_lost_at = attempt.store_lost_at or time.monotonic()
            passing = time.monotonic() - attempt.store_lost_at < self.retry_seconds
        elif isinstance(cause, MachineFault) or (attempt.item.is_remote and _is_of(cause, _MAY_PASS)):
            passing = attempt.tries < MAX_TRIES
        else:  # a mount, a right or a module that only this machine lacks
            passing = _is_of(cause, _MAY_BE_HERE_ONLY) and not alone and attempt.tries < MAX_TRIES
        if not isinstance(cause, StoreUnavailable):
            attempt.avoid.add(node)
        if passing or attempt.flights:
            self._again(attempt, waiting, type(cause).__name__)
            return None
        return self._given_up(attempt.item.name, cause)

    def _given_up(self, name: str, cause: BambaError) -> Fault:
        self.progress.ended.remote(name, None)
        return Fault(name, cause)

    def _again(self, attempt: _Try, waiting: list[_Try], cause: str) -> None:
        self.progress.retried.remote(cause)
        if attempt.flights:  # its other copy goes on
            return
        attempt.not_before = time.monotonic() + random.uniform(0.2, 1.0) * min(30, 2**attempt.tries)
        waiting.append(attempt)

    def _snapshot(self, total: Mapping[str, int]) -> Snapshot:
        import ray

        snapshot: Snapshot = ray.get(self.progress.snapshot.remote())
        snapshot.units_total, snapshot.input_bytes_total = total["units"], total["input_bytes"]
        snapshot.units_done += total["units_done"]
        snapshot.counts.input_bytes += total["input_bytes_done"]
        snapshot.cores = _cluster_cpus()
        snapshot.throttled_seconds = sum(ray.get(self.budget.throttled_seconds.remote()).values())
        return snapshot


_MAY_PASS = (SourceUnavailable, IntegrityError)
_MAY_BE_HERE_ONLY = (SourceUnavailable, AccessDenied, WorkerFault)


def _is_of(cause: BambaError, kinds: tuple[type[BambaError], ...]) -> bool:
    """Whether it, or any of those that it tells together, is of these kinds."""
    return any(isinstance(one, kinds) for one in (cause.faults if isinstance(cause, InputFaults) else [cause]))


@contextlib.contextmanager
def crew(options: Options, network: Network, task_bytes: int) -> Iterator[Crew]:
    """Join the cluster of the options (or RAY_ADDRESS), or start Ray on this machine with so many workers as cores, and
    memory for at least one task.

    While it lasts, SIGTERM and SIGINT end the run cleanly: what is in flight is dropped, what is finished is kept.
    """
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ModuleNotFoundError:
        raise UserError("Ray is not installed, which builds run on: pip install 'bamba-data[ray]'") from None

    joined = options.address or os.environ.get("RAY_ADDRESS")
    if joined:
        where: dict[str, Any] = {"address": joined}
    else:
        where = {
            "address": "local",  # without it Ray would join whatever `ray start` left on this machine
            "num_cpus": options.workers or cores(),
            "_memory": max(task_bytes, memory_bytes() - OBJECT_STORE_BYTES - RAY_BYTES),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        start = functools.partial(ray.init, **where, log_to_driver=False, logging_level="error")
        join(joined, start) if joined else start()
    except SystemExit:  # Ray's own answer to SIGTERM, which would end the process by code 15 and say nothing
        raise KeyboardInterrupt from None
    except BambaError:
        raise
    except Exception as error:  # noqa: BLE001 - Ray has no one type for it
        raise not_joined(joined, error) from None
    finally:
        signal.signal(signal.SIGTERM, on_term)
    try:
        # Beside the driver: workers are evicted, and a keeper that starts anew has forgotten what it kept.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        keep = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=beside)
        made = Crew(
            budget=keep(BudgetKeeper).remote(network),
            progress=keep(ProgressKeeper).remote(),
            max_in_flight=options.workers if joined else None,
            retry_seconds=network.retry_seconds,
            straggler_seconds=options.straggler_seconds,
        )
        with _told_to_stop(made._interrupted):
            yield made
    except RayError as error:
        raise Unfinished(
            f"the Ray cluster was lost ({plain_line(error)}); run the same command again to go on"
        ) from None
    finally:
        ray.shutdown()


def for_each_file(
    files: Sequence[LockedFile],
    is_done: Callable[[LockedFile], bool],
    work: Callable[..., Counts],
    shared: Any,
    network: Network,
    options: Options,
    display: Display,
    task_cores: float = 1.0,
    task_bytes: int = FETCH_BYTES,
) -> None:
    """A task `work(OneFile, shared, network, budget, progress)` for every file that is not done, the largest first.
    Raises Failed when some could not be; the others are done and kept."""
    missing = sorted((file for file in files if not is_done(file)), key=lambda file: -(file.facts.size_bytes or 0))
    if not missing:
        return
    size, left = (sum(file.facts.size_bytes or 0 for file in some) for some in (files, missing))
    total = {
        "units": len(files),
        "units_done": len(files) - len(missing),
        "input_bytes": size,
        "input_bytes_done": size - left,
    }
    with crew(options, network, task_bytes) as hands, display:
        import ray

        once = ray.put(shared)
        task = hands.task(work, task_bytes)

        def submit(one: OneFile, where: Mapping[str, Any], progress: Any) -> Any:
            return task.options(num_cpus=task_cores, **where).remote(one, once, network, hands.budget, progress)

        if faults := hands.run([OneFile(file) for file in missing], submit, display, total, options.fail_fast):
            raise Failed(faults)


@contextlib.contextmanager
def _told_to_stop(heard: list[str]) -> Iterator[None]:
    def hear(number: int, frame: FrameType | None) -> None:
        if heard:  # a second time: now
            raise KeyboardInterrupt
        heard.append(signal.Signals(number).name)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cluster_cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))
