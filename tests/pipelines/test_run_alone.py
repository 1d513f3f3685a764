"""A build that one worker is enough for runs in its own process, and a fault there is what it is on a cluster."""

import errno
import gc
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bamba_data.errors import BudgetExceeded, MachineFault, Unfinished, WorkerFault
from bamba_data.sources.base import TransformRule
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build import run_alone as alone
from pipelines.dataset_build.driver import Prepared, finish, run_here
from pipelines.dataset_build.plan import Unit
from pipelines.observe.counters import Counters
from pipelines.observe.display import Display
from pipelines.observe.progress import Snapshot
from pipelines.ray_jobs.executor import Fault, Options
from tests.building import prepared, tiny_inputs


class Seen(Display):
    """The snapshots of a run; `at` is called with each."""

    def __init__(self, at: Callable[[Snapshot], None] = lambda snapshot: None) -> None:
        self.snapshots: list[Snapshot] = []
        self._at = at

    def show(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self._at(snapshot)


@pytest.fixture
def ready(tmp_path: Path, certificate: Certificate) -> Prepared:
    return prepared(tmp_path / "out", certificate, str(tiny_inputs(tmp_path)))


def ran(ready: Prepared, seen: Seen, options: Options | None = None) -> list[Fault]:
    planned = Counters(input_bytes=ready.plan.input_bytes, units=len(ready.plan.units))
    return alone.run_alone(ready, ready.remaining(), options or Options(), seen, planned, Counters())


def failing(monkeypatch: pytest.MonkeyPatch, fault: Callable[[], Exception], times: int) -> list[str]:
    """Units fail so often before they run; the names of those that were begun."""
    begun: list[str] = []
    real = alone.run

    def run(unit: Any, job: Any, tools: Any) -> Any:
        begun.append(unit.name)
        if len(begun) <= times:
            raise fault()
        return real(unit, job, tools)

    monkeypatch.setattr(alone, "run", run)
    monkeypatch.setattr(alone.Attempts, "wait", lambda attempts: None)
    return begun


def test_it_makes_the_same_bytes_and_starts_no_process(
    ready: Prepared, tmp_path: Path, certificate: Certificate
) -> None:
    seen = Seen(lambda snapshot: started.extend(psutil.Process().children(recursive=True)))
    started: list[psutil.Process] = []
    assert ran(ready, seen) == []
    assert gc.get_freeze_count() == 0, "who called it has its garbage collected again"
    last = seen.snapshots[-1]
    assert (last.counts.units, last.running, last.counts.input_bytes) == (4, 0, ready.plan.input_bytes)
    assert last.counts.bad == 2
    assert not [process for process in started if "ray" in process.name()]
    other = prepared(tmp_path / "other", certificate, str(tmp_path / "tiny.yaml"))
    assert run_here(other, Fetcher()) == []
    assert finish(ready)[1].digest == finish(other)[1].digest


def test_a_fault_of_the_machine_is_tried_again(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = failing(monkeypatch, lambda: OSError(errno.ENOSPC, "No space left on device", "/disk/x"), times=1)
    seen = Seen()
    assert ran(ready, seen) == []
    assert begun[0] == begun[-1] and len(begun) == 5, "the others went first"
    assert seen.snapshots[-1].retries == {"MachineFault": 1}


def test_a_machine_that_stays_broken_is_a_line_that_names_the_path(
    ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = failing(monkeypatch, lambda: OSError(errno.ENOSPC, "No space left on device", "/disk/x"), times=100)
    faults = ran(ready, Seen())
    assert len(begun) == 12 and {type(fault.error) for fault in faults} == {MachineFault}
    assert "/disk/x" in str(faults[0].error) and "node" not in str(faults[0].error)


def test_what_nobody_foresaw_is_the_fault_of_one_unit(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda: KeyError("odd"), times=1)
    (fault,) = ran(ready, Seen())
    assert isinstance(fault.error, WorkerFault) and "KeyError" in str(fault.error)
    assert len(ready.remaining()) == 1


def test_a_verdict_is_told_with_what_else_fails_and_alone_if_that_is_asked(
    ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as first:
        failing(first, lambda: BudgetExceeded("too many"), times=2)
        assert len(ran(ready, Seen(), Options(fail_fast=True))) == 1
    failing(monkeypatch, lambda: BudgetExceeded("too many"), times=2)
    assert len(ran(ready, Seen())) == 2


def test_a_signal_ends_it_between_two_batches_and_what_is_done_is_kept(
    ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, told = signal.getsignal(signal.SIGTERM), list[None]()

    def stop(snapshot: Snapshot) -> None:
        if snapshot.counts.documents and not told:
            told.append(os.kill(os.getpid(), signal.SIGTERM))

    with monkeypatch.context() as often, pytest.raises(Unfinished, match="stopped by SIGTERM; run the same command"):
        often.setattr(alone, "POLL_SECONDS", 0.0)
        ran(ready, Seen(stop))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert ran(ready, Seen()) == []


def test_a_signal_after_the_last_batch_ends_it_too(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    real, last = alone.run, ready.remaining()[-1]

    def run(unit: Any, job: Any, tools: Any) -> Any:
        record = real(unit, job, tools)
        if unit == last:
            os.kill(os.getpid(), signal.SIGINT)
        return record

    monkeypatch.setattr(alone, "run", run)
    with pytest.raises(Unfinished, match="stopped by SIGINT"):
        ran(ready, Seen())
    assert ready.remaining() == []


def test_a_verdict_does_not_wait_for_the_end_of_a_unit(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, *others = (unit.name for unit in ready.remaining())
    begun, now = failing(monkeypatch, lambda: BudgetExceeded("too many"), times=1), [0.0]
    begin = alone.run

    def slow(unit: Any, job: Any, tools: Any) -> Any:
        now[0] += 3.0  # twice is longer than what else fails is waited for
        return begin(unit, job, tools)

    monkeypatch.setattr(alone, "run", slow)
    monkeypatch.setattr(alone, "time", SimpleNamespace(monotonic=lambda: now[0]))
    (fault,) = ran(ready, Seen())
    assert isinstance(fault.error, BudgetExceeded) and len(begun) == 3
    assert [unit.name for unit in ready.remaining()] == [begun[0], begun[2], *others]


def test_long_work_other_peoples_code_and_networks_get_a_ray(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    units = ready.remaining()

    def enough(given: Prepared = ready, options: Options | None = None, workers: int = 1) -> bool:
        return alone.is_enough(given, units, options or Options(), workers)

    assert enough()
    assert not enough(workers=2)
    assert not enough(options=Options(address="head:6379"))
    assert not enough(replace(ready, store=open_store("s3://bucket/out")))
    theirs = TransformRule(function="module:function")
    changed = ready.job.sources["rows"].model_copy(update={"transform": theirs})
    assert not enough(replace(ready, job=replace(ready.job, sources={**ready.job.sources, "rows": changed})))
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("RAY_ADDRESS", "head:6379")
        assert not enough()
    with monkeypatch.context() as far:
        far.setattr(Unit, "is_remote", True)
        assert not enough()
    monkeypatch.setattr(alone, "MAX_SECONDS", 0.0)
    assert not enough()
