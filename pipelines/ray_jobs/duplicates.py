"""Exact duplicates as a Ray job: a task for every group of shards, then one for every range of digests.

bamba-data duplicates URL --out LIST.parquet
"""

from pathlib import Path
from typing import Any

from bamba_data.clean.duplicates import Duplicates, DuplicatesJob, match, scan, write_list

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Options
from .phases import Step, run_phases


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
    scans = [Step(f"shards {group}", group, job.scanned(group)) for group in range(len(job.groups))]
    # A match reads all scans: it has what it needs only when the last of them is there.
    matches = [Step(f"range {number}", number, job.piece(number)) for number in range(job.ranges)]
    run_phases(job, [(scan_one, scans), (match_one, matches)], options, shown)
    return write_list(job, out)


def scan_one(step: Step, job: DuplicatesJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    return Counters(documents=scan(job, step.number))


def match_one(step: Step, job: DuplicatesJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the folder of work."""
    match(job, step.number)
    return Counters()
