"""Jobs that work on a lock file by file, such as a download or an index: a task for every input that is not done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bamba_data.recipe import Network
from bamba_data.resources import FETCH_BYTES
from bamba_data.storage.locked_file import LockedFile

from ..observe.counters import Counters
from ..observe.display import Display
from .executor import Failed, Options
from .session import task_runner


@dataclass(frozen=True, slots=True)
class FileTask:
    """A locked input, as an Item."""

    file: LockedFile

    @property
    def name(self) -> str:
        return self.file.key

    @property
    def is_remote(self) -> bool:
        return self.file.is_remote


def for_each_file(
    files: Sequence[LockedFile],
    is_done: Callable[[LockedFile], bool],
    work: Callable[..., Counters],
    shared: Any,
    network: Network,
    options: Options,
    display: Display,
    task_cores: float = 1.0,
    task_bytes: int = FETCH_BYTES,
) -> None:
    """Run `work(FileTask, shared, network, rate_limit, progress)` for every file that is not done, the largest first.

    Args:
        files: Of the whole job.
        is_done: Whether an earlier attempt finished it.
        work: Leaves its result in the store, and returns the file's exact Counters.
        shared: What all tasks share; sent to each node once.
        network: The request budget.
        options: Where to run.
        display: Shows how far it is.
        task_cores: Of each task.
        task_bytes: Memory of each task.

    Raises:
        Failed: Some could not be done; the others are done and kept.
    """
    missing = sorted((file for file in files if not is_done(file)), key=lambda file: -(file.facts.size_bytes or 0))
    if not missing:
        return
    planned, remaining = _counters(files), _counters(missing)
    with task_runner(options, network, task_bytes) as runner, display:
        import ray

        once = ray.put(shared)
        task = runner.task(work, task_bytes)

        def submit(item: FileTask, where: Mapping[str, Any], progress: Any) -> Any:
            return task.options(num_cpus=task_cores, **where).remote(item, once, network, runner.rate_limit, progress)

        items = [FileTask(file) for file in missing]
        if faults := runner.run(items, submit, display, planned, planned - remaining, options.fail_fast):
            raise Failed(faults)


def _counters(files: Sequence[LockedFile]) -> Counters:
    return Counters(input_bytes=sum(file.facts.size_bytes or 0 for file in files), units=len(files))
