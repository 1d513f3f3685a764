"""Exact duplicates as a Ray job: a task for every group of shards, then one for every range of digests.

    bamba-data duplicates URL --out LIST.parquet

Every task leaves its result in the folder of work, so the same command goes on where one was killed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data.clean.duplicates import Duplicates, DuplicatesJob, match, scan, write_list
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


def find_duplicates(job: DuplicatesJob, out: Path, options: Options, shown: Display) -> Duplicates:
    """Run what is not finished of a job, and write its list.

    Args:
        job: What is to be done.
        out: The list, a parquet file.
        options: Where to run.
        shown: Shows how far it is.

    Raises:
        Failed: Some tasks could not be done; the others are done and kept.
    """
    scans = [(Step(f"shards {group}", group), job.scanned(group)) for group in range(len(job.groups))]
    matches = [(Step(f"range {number}", number), job.piece(number)) for number in range(job.ranges)]
    done = job.finished()
    phases = [
        (work, [step for step, path in steps if path not in done])
        for work, steps in ((scan_one, scans), (match_one, matches))
    ]
    missing = sum(len(steps) for _, steps in phases)
    if not missing:
        return write_list(job, out)
    planned = Counters(units=len(scans) + len(matches))
    before = planned - Counters(units=missing)
    with task_runner(options, Network(), job.task_bytes, max(len(steps) for _, steps in phases)) as runner, shown:
        import ray

        once = ray.put(job)
        # A match reads all scans: it has what it needs only when the last of them is there. What is counted is
        # counted over both.
        for work, steps in phases:
            task = runner.task(work, job.task_bytes)

            def submit(item: Step, where: Mapping[str, Any], progress: Any, task: Any = task) -> Any:
                return task.options(num_cpus=1, **where).remote(item, once, progress)

            if faults := runner.run(steps, submit, shown, planned, before, options.fail_fast):
                raise Failed(faults)
    return write_list(job, out)


def scan_one(step: Step, job: DuplicatesJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    return Counters(documents=scan(job, step.number))


def match_one(step: Step, job: DuplicatesJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    match(job, step.number)
    return Counters()
