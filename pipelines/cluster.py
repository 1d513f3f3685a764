"""Ray, and nothing else: connect or start, run idempotent tasks with bounded flight and retries, stop cleanly.

A task may run zero, one or several times, at once: workers are killed, nodes vanish, replies are lost. So the tasks
that run here leave their results in the store, under names made of their content; what they return is only news.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from bamba_data.errors import BambaError, BudgetExceeded, IntegrityError, SourceUnavailable, Unfinished, UserError
from bamba_data.input_faults import InputFaults
from bamba_data.locked import LockedFile
from bamba_data.recipe import Network
from pipelines.budget import BudgetKeeper
from pipelines.progress import Counts, Display, ProgressKeeper, Snapshot

POLL_SECONDS = 0.5
TOLD_TOGETHER_SECONDS = 5.0
OBJECT_STORE_BYTES = 100 << 20  # bulk data never goes through it
MAX_CRASHES = 25  # of one task, in a row
MAX_TRIES = 3  # of one task that answered with an error worth another try


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

    def __str__(self) -> str:
        lines = [f"{len(self.faults)} failed; the others are done and kept, nothing was published:"]
        lines += [f"  {fault.name}: {fault.error}" for fault in self.faults]
        if any(isinstance(fault.error, IntegrityError) for fault in self.faults):
            lines.append("restore the inputs, or leave one out, and say so in the dataset: --quarantine SOURCE/PATH")
        return "\n".join(lines)


@dataclass
class _Try:
    item: Any
    crashes: int = 0
    tries: int = 0
    not_before: float = 0.0


@dataclass
class Crew:
    """A connection to a cluster, with the two actors that all tasks share."""

    budget: Any
    progress: Any
    max_in_flight: int | None
    _interrupted: list[str] = field(default_factory=list)

    def run(
        self,
        items: Sequence[Item],
        submit: Callable[[Any], Any],
        display: Display,
        total: Mapping[str, int],
        fail_fast: bool = False,
    ) -> list[Fault]:
        """Run every item to its end; the faults of those that cannot be. `submit(item)` starts a task whose result
        is the item's exact Counts. Raises Unfinished if the process is told to stop."""
        import ray

        waiting = [_Try(item) for item in reversed(items)]  # from the end: the first item is the next
        flying: dict[Any, _Try] = {}
        faults: list[Fault] = []
        next_show = 0.0
        while waiting or flying:
            self._launch(waiting, flying, submit)
            done, _ = ray.wait(list(flying), num_returns=1, timeout=POLL_SECONDS) if flying else ([], [])
            if not flying:
                time.sleep(POLL_SECONDS)
            for ref in done:
                attempt = flying.pop(ref)
                if fault := self._land(ref, attempt, waiting):
                    faults.append(fault)
            if time.monotonic() >= next_show:
                next_show = time.monotonic() + POLL_SECONDS
                display.show(self._snapshot(total))
            hopeless = any(isinstance(fault.error, BudgetExceeded) for fault in faults)
            if self._interrupted or hopeless or (faults and fail_fast):
                if hopeless and not self._interrupted:
                    faults += self._told_with_it(flying)
                for ref in flying:
                    ray.cancel(ref, force=True)
                if self._interrupted:
                    raise Unfinished(f"stopped by {self._interrupted[0]}; run the same command again to go on")
                return faults
        display.show(self._snapshot(total))
        return faults

    def _told_with_it(self, flying: dict[Any, _Try]) -> list[Fault]:
        """Where one input is hopeless nothing can be published, so nothing more is started. What else fails within a
        few seconds is told in the same run."""
        import ray

        done, _ = ray.wait(list(flying), num_returns=len(flying), timeout=TOLD_TOGETHER_SECONDS) if flying else ([], [])
        found = [self._land(ref, flying.pop(ref), []) for ref in done]
        return [fault for fault in found if fault]

    def _launch(self, waiting: list[_Try], flying: dict[Any, _Try], submit: Callable[[Any], Any]) -> None:
        slots = self.max_in_flight or 2 * _cluster_cpus() + 1  # Ray starts what has a core, the rest waits there
        now = time.monotonic()
        held = []
        while waiting and len(flying) < slots:
            attempt = waiting.pop()
            if attempt.not_before > now:
                held.append(attempt)
                continue
            flying[submit(attempt.item)] = attempt
        waiting.extend(reversed(held))

    def _land(self, ref: Any, attempt: _Try, waiting: list[_Try]) -> Fault | None:
        """Take the result of a task, or queue it again, or give it up."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        name = attempt.item.name
        try:
            counts: Counts = ray.get(ref)
        except RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, BambaError):
                raise
            attempt.tries += 1
            causes = cause.faults if isinstance(cause, InputFaults) else [cause]
            passing = attempt.item.is_remote and any(
                isinstance(one, SourceUnavailable | IntegrityError) for one in causes
            )
            if not passing or attempt.tries >= MAX_TRIES:
                self.progress.ended.remote(name, None)
                return Fault(name, cause)
            self._again(attempt, waiting, type(cause).__name__)
        except RayError as error:  # worker killed, node lost, out of memory
            attempt.crashes += 1
            if attempt.crashes >= MAX_CRASHES:
                self.progress.ended.remote(name, None)
                return Fault(name, Unfinished(f"{name}: its worker died {MAX_CRASHES} times ({type(error).__name__})"))
            self._again(attempt, waiting, type(error).__name__)
        else:
            self.progress.ended.remote(name, counts)
        return None

    def _again(self, attempt: _Try, waiting: list[_Try], cause: str) -> None:
        self.progress.retried.remote(cause)
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


@contextlib.contextmanager
def crew(options: Options, network: Network) -> Iterator[Crew]:
    """Join the cluster of the options (or RAY_ADDRESS), or start Ray on this machine with so many workers as cores.

    While it lasts, SIGTERM and SIGINT end the run cleanly: what is in flight is dropped, what is finished is kept.
    """
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ModuleNotFoundError:
        raise UserError("Ray is not installed, which builds run on: pip install 'bamba-data[ray]'") from None

    joined = options.address or os.environ.get("RAY_ADDRESS")
    if joined:
        where: dict[str, Any] = {"address": joined}
    else:
        where = {
            "address": "local",  # without it Ray would join whatever `ray start` left on this machine
            "num_cpus": options.workers or os.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, log_to_driver=False, logging_level="error")
    except SystemExit:  # Ray's own answer to SIGTERM, which would end the process by code 15 and say nothing
        raise KeyboardInterrupt from None
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
        )
        with _told_to_stop(made._interrupted):
            yield made
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
    cores: float = 1.0,
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
    with crew(options, network) as hands, display:
        import ray

        once = ray.put(shared)
        task = ray.remote(num_cpus=cores, max_retries=0)(work)

        def submit(one: OneFile) -> Any:
            return task.remote(one, once, network, hands.budget, hands.progress)

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
