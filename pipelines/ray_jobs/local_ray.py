"""Ray on this machine alone, for one job: no more processes than its tasks need.

`ray.init` starts what serves a cluster and many users, although a job of our own asks none of it: an API server (even
where the dashboard is switched off), a monitor that would start machines, a reader of logs. They cost 2.1 of the 4.5
processor seconds of a start (docs/log.md). Ray has no public switch for them, so their starters are passed over while
it starts; where a version of Ray has no such starter, it starts in full, which is only slower.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from bamba_data.resources import cores, memory_bytes

OBJECT_STORE_BYTES = 100 << 20  # bulk data never goes through it
RAY_BYTES = 1 << 30  # what Ray's own processes and the driver take on a machine
#: A worker costs some 1.5 processor seconds before its first unit: one more is started for so much work.
WORK_SECONDS_A_WORKER = 5.0

#: Methods of Ray's Node: the monitor of its autoscaler, the reader of its workers' logs, the API server.
_STARTERS = ("start_monitor", "start_log_monitor", "start_api_server")


def local_arguments(workers: int, task_bytes: int) -> dict[str, Any]:
    """What `ray.init` is told: so many cores, and memory for at least one task of `task_bytes`."""
    return {
        "address": "local",  # without it Ray would join whatever `ray start` left on this machine
        "num_cpus": workers,
        "_memory": max(task_bytes, memory_bytes() - OBJECT_STORE_BYTES - RAY_BYTES),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }


def useful_workers(work_seconds: float, tasks: int) -> int:
    """How many workers are worth their start on this machine: at most one a core and one a task.

    Args:
        work_seconds: What all tasks take on one core; infinite where nobody knows.
        tasks: How many there are.
    """
    worth = tasks if math.isinf(work_seconds) else min(tasks, math.ceil(work_seconds / WORK_SECONDS_A_WORKER))
    return max(1, min(cores(), worth))


@contextlib.contextmanager
def without_services() -> Iterator[None]:
    """While it lasts, a Ray that is started starts none of the services that only a cluster needs."""
    from ray._private import node, utils

    with contextlib.ExitStack() as stack:
        for name in _STARTERS:
            stack.enter_context(_replaced(getattr(node, "Node", None), name, _nothing))
        # Else it imports aiohttp and OpenTelemetry into the driver, to see whether it could show a dashboard.
        stack.enter_context(_replaced(utils, "get_dashboard_dependency_error", _not_wanted))
        yield


@contextlib.contextmanager
def _replaced(owner: object, name: str, substitute: Callable[..., object]) -> Iterator[None]:
    before = vars(owner).get(name) if owner is not None else None
    if before is None:
        yield
        return
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _nothing(node: object, *arguments: object, **options: object) -> None:
    """In the place of a starter."""


def _not_wanted() -> ImportError:
    return ImportError("this Ray has no dashboard")
