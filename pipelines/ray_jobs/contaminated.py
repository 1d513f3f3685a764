"""Documents that hold texts of an evaluation, as a Ray job: a task for every group of shards.

    bamba-data contaminated URL --against TASKS.jsonl --out LIST.parquet

Every task leaves its result in the folder of work, so the same command goes on where one was killed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data.clean.contaminated import Contaminated, ContaminatedJob, scan, write_list
from bamba_data.recipe import Network

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Failed, Options
from .session import task_runner


@dataclass(frozen=True, slots=True)
class Group:
    """A group of shards, as an Item."""

    name: str
    number: int
    is_remote: bool = True


def find_contaminated(job: ContaminatedJob, out: Path, options: Options, shown: Display) -> Contaminated:
    """Run what is not finished of a job, and write its list.

    Args:
        job: What is to be done.
        out: The list, a parquet file.
        options: Where to run.
        shown: Shows how far it is.

    Raises:
        Failed: Some tasks could not be done; the others are done and kept.
    """
    groups = range(len(job.groups))
    done = job.finished()
    missing = [Group(f"shards {group}", group) for group in groups if job.scanned(group) not in done]
    if not missing:
        return write_list(job, out)
    planned = Counters(units=len(groups))
    before = planned - Counters(units=len(missing))
    with task_runner(options, Network(), job.task_bytes, len(missing)) as runner, shown:
        import ray

        once = ray.put(job)  # with the n-grams: a machine holds them once, its workers look at the same memory
        task = runner.task(scan_one, job.task_bytes)

        def submit(item: Group, where: Mapping[str, Any], progress: Any) -> Any:
            return task.options(num_cpus=1, **where).remote(item, once, progress)

        if faults := runner.run(missing, submit, shown, planned, before, options.fail_fast):
            raise Failed(faults)
    return write_list(job, out)


def scan_one(group: Group, job: ContaminatedJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    return Counters(documents=scan(job, group.number))
