"""The main job: a recipe in, a published dataset out, its units run by Ray.

    ray job submit --address URL -- python -m pipelines.tokenize RECIPE --out URL
    bamba-data build RECIPE --out URL                     the same, on a Ray that it starts itself, or without one

Killed at any time, the same command goes on where it was. Exit codes: 0 complete and verified, 2 bad recipe or
arguments, 3 error budget exceeded, 4 incomplete but resumable, 5 integrity failure.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from bamba_data.format.fence import Fence
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version
from bamba_data.resources import unit_memory_bytes

from ..observe.counters import Counters
from ..observe.display import Display
from ..observe.logs import people_log
from ..ray_jobs.executor import Failed, Fault, Options
from ..ray_jobs.local_ray import useful_workers
from ..ray_jobs.session import task_runner
from . import unit_task
from .driver import Prepared, finish
from .finished_units import UnitsLost
from .plan import Unit, core_seconds
from .run_alone import is_enough, run_alone

ROUNDS = 3  # of units whose finished work turns out to be damaged


def build(
    prepared: Prepared,
    options: Options,
    display: Display,
    fence: Fence,
    end: Callable[[Prepared, Fence], tuple[Version, Manifest]] = finish,
) -> tuple[Version, Manifest]:
    """Run what remains, on Ray or, where that is enough, in this process; verify (without bodies) and publish; and
    again, should finished work turn out to be damaged.

    Args:
        prepared: By `driver.prepare`.
        options: Where to run.
        display: Shows how far it is.
        fence: Taken before `prepare`.
        end: Publishes what the units left.

    Raises:
        Failed: Units failed for good; the others are done and kept.
        Unfinished: Stopped, or the cluster was lost. Otherwise as `driver.finish`.
    """
    for rounds in itertools.count(1):
        if (remaining := prepared.remaining()) and (faults := _run(prepared, remaining, options, display)):
            raise Failed(faults)
        try:
            return end(prepared, fence)
        except UnitsLost as lost:
            if rounds == ROUNDS:
                raise
            people_log().warning("%s; they are made anew now", lost.summary)
    raise AssertionError("unreachable")


def _run(prepared: Prepared, remaining: list[Unit], options: Options, display: Display) -> list[Fault]:
    plan = prepared.plan
    planned = Counters(input_bytes=plan.input_bytes, units=len(plan.units))
    left = Counters(input_bytes=sum(unit.size_bytes for unit in remaining), units=len(remaining))
    memory, workers = unit_memory_bytes(plan.recipe), options.workers or _useful_workers(remaining)
    if is_enough(prepared, remaining, options, workers):
        return run_alone(prepared, remaining, options, display, planned, planned - left)
    with task_runner(options, plan.recipe.network, memory, workers) as runner, display:
        import ray

        job = ray.put(prepared.job)
        run_unit = runner.task(unit_task.run_unit, memory)

        def submit(unit: Unit, where: Mapping[str, Any], progress: Any) -> Any:
            # A unit that is staged first leaves its core idle meanwhile: two share one.
            staged = unit.is_remote and plan.lock.sources[unit.source].form == "parquet"
            placed = run_unit.options(num_cpus=0.5 if staged else 1, **where)
            return placed.remote(unit, job, runner.rate_limit, progress)

        return runner.run(remaining, submit, display, planned, planned - left, options.fail_fast)


def _useful_workers(units: list[Unit]) -> int:
    """Of a Ray that is started for these units. What comes over a network waits more than it computes: it gets all."""
    seconds = math.inf if any(unit.is_remote for unit in units) else core_seconds(units)
    return useful_workers(seconds, len(units))
