"""Checkpoints asked a suite of tasks as a Ray job: a task for every subtask of every checkpoint.

    bamba-data model judge RUN --every-checkpoint --suite leaderboard-v1 --out s3://bucket/results --gpus 1

What there is to do, and how, the trainer's own job says (trainer/tasks/job.py); here it is only spread.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Options
from .phases import PhasedJob, Step, run_phases


class Part(Protocol):
    """What a task does. `result` is the path of what it leaves, as `PhasedJob.finished` names it."""

    @property
    def name(self) -> str: ...

    @property
    def result(self) -> str: ...


class PartedJob(PhasedJob, Protocol):
    """Parts by their numbers, each of which can be done anywhere, in any order, twice."""

    @property
    def parts(self) -> Sequence[Part]: ...

    def do(self, number: int) -> None: ...


def judge(job: PartedJob, resources: Mapping[str, float], options: Options, shown: Display) -> None:
    """Do all parts that are missing.

    Args:
        resources: Of each task: `num_cpus` and `num_gpus`.

    Raises:
        Failed: Some could not be done; the others are done and kept.
    """
    steps = [Step(part.name, number, part.result) for number, part in enumerate(job.parts)]
    run_phases(job, [(do_one, steps)], options, shown, resources)


def do_one(step: Step, job: PartedJob, progress: Any) -> Counters:
    """Runs in a worker; its result is in the job's folder."""
    job.do(step.number)
    return Counters()
