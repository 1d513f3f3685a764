"""Documents that hold texts of an evaluation, as a Ray job: a task for every group of shards.

bamba-data contaminated URL --against TASKS.jsonl --out LIST.parquet
"""

from pathlib import Path
from typing import Any

from bamba_data.clean.contaminated import Contaminated, ContaminatedJob, scan, write_list

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Options
from .phases import Step, run_phases


def find_contaminated(job: ContaminatedJob, out: Path, options: Options, shown: Display) -> Contaminated:
    """Run what is not finished of a job, and write its list.

    Args:
        job: What is to be done, with the n-grams.
        out: The list, a parquet file.
        options: Where to run.
        shown: Shows how far it is.

    Raises:
        Failed: Some tasks could not be done; the others are done and kept.
    """
    scans = [Step(f"shards {group}", group, job.scanned(group)) for group in range(len(job.groups))]
    run_phases(job, [(scan_one, scans)], options, shown)
    return write_list(job, out)


def scan_one(step: Step, job: ContaminatedJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    return Counters(documents=scan(job, step.number))
