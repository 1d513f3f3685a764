"""Exact duplicates as a Ray job: a task for every group of shards, then one for every range of digests.

    bamba-data duplicates URL --out LIST.parquet

Every task leaves its result in the folder of work, so the same command goes on where one was killed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data.clean.duplicates import TASK_BYTES, Duplicates, DuplicatesJob, match, scan, write_list
from bamba_data.recipe import Network

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Failed, Options
from .session import task_runner


@dataclass(frozen=True, slots=True)
class Step:
    """A scan or a match, as an Item."""

    name: str
    number: int
    is_remote: bool = True


def find_duplicates(job: DuplicatesJob, out: Path, options: Options, shown: Callable[[str], Display]) -> Duplicates:
    """Run what is not finished of a job, and write its list.

    Args:
        job: What is to be done.
        out: The list, a parquet file.
        options: Where to run.
        shown: The display of a step, by its name.

    Raises:
        Failed: Some tasks could not be done; the others are done and kept.
    """
    scans = [(Step(f"shards {group}", group), job.scanned(group)) for group in range(len(job.groups))]
    matches = [(Step(f"range {number}", number), job.piece(number)) for number in range(job.ranges)]
    done = job.finished()
    if all(path in done for _, path in scans + matches):
        return write_list(job, out)
    with task_runner(options, Network(), TASK_BYTES, max(len(scans), len(matches))) as runner:
        import ray

        once = ray.put(job)
        # A match reads all scans: it has what it needs only when the last of them is there.
        for phase, work, steps in (("scan", scan_one, scans), ("match", match_one, matches)):
            missing = [step for step, path in steps if path not in done]
            task = runner.task(work, TASK_BYTES)

            def submit(item: Step, where: Mapping[str, Any], progress: Any, task: Any = task) -> Any:
                return task.options(num_cpus=1, **where).remote(item, once, progress)

            planned, before = Counters(units=len(steps)), Counters(units=len(steps) - len(missing))
            with shown(phase) as display:
                faults = runner.run(missing, submit, display, planned, before, options.fail_fast)
            if faults:
                raise Failed(faults)
    return write_list(job, out)


def scan_one(step: Step, job: DuplicatesJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    return Counters(documents=scan(job, step.number), units=1)


def match_one(step: Step, job: DuplicatesJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    match(job, step.number)
    return Counters(units=1)
