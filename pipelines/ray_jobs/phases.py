"""A job of numbered steps in phases, one phase after the other, as Ray tasks that leave their results in a folder.

What an earlier attempt left is not done again, so the same command goes on where one was killed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bamba_data.recipe import Network

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Failed, Options
from .session import task_runner


class PhasedJob(Protocol):
    """What every step is given; it crosses processes, once a machine."""

    @property
    def task_bytes(self) -> int: ...

    def finished(self) -> set[str]: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step, as an Item.

    name: What is shown of it.
    number: Its place in its phase.
    result: The path, as `PhasedJob.finished` names it, of what it leaves.
    """

    name: str
    number: int
    result: str
    is_remote: bool = True


#: Runs one step in a worker; its result is in the job's folder.
Work = Callable[[Step, Any, Any], Counters]


ONE_CORE: Mapping[str, float] = {"num_cpus": 1}


def run_phases(
    job: PhasedJob,
    phases: Sequence[tuple[Work, list[Step]]],
    options: Options,
    shown: Display,
    resources: Mapping[str, float] = ONE_CORE,
) -> None:
    """Run the steps whose results are missing; none missing, nothing is started. What is counted, is over all phases.

    Args:
        resources: Of each task, as Ray names them: `num_cpus`, `num_gpus`.

    Raises:
        Failed: Some steps could not be done; the others are done and kept.
    """
    done = job.finished()
    left = [(work, [step for step in steps if step.result not in done]) for work, steps in phases]
    if not (missing := sum(len(steps) for _, steps in left)):
        return
    planned = Counters(units=sum(len(steps) for _, steps in phases))
    before = planned - Counters(units=missing)
    with task_runner(options, Network(), job.task_bytes, max(len(steps) for _, steps in left)) as runner, shown:
        import ray

        once = ray.put(job)  # a machine holds it once, and its workers look at the same memory
        for work, steps in left:
            task = runner.task(work, job.task_bytes)

            def submit(item: Step, where: Mapping[str, Any], progress: Any, task: Any = task) -> Any:
                return task.options(**resources, **where).remote(item, once, progress)

            if faults := runner.run(steps, submit, shown, planned, before, options.fail_fast):
                raise Failed(faults)
