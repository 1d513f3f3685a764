"""A Ray cluster for the time of a job: joined, or started on this machine, with the actors that all tasks share."""

import contextlib
import functools
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from bamba_data.errors import BambaError, Unfinished, UserError
from bamba_data.recipe import Network
from bamba_data.resources import cores, memory_bytes

from ..observe.progress import ProgressKeeper
from .connection import join, not_joined, plain_line
from .executor import Options, TaskRunner
from .rate_limit_actor import BudgetKeeper

OBJECT_STORE_BYTES = 100 << 20  # bulk data never goes through it
RAY_BYTES = 1 << 30  # what Ray's own processes and the driver take on a machine


@contextlib.contextmanager
def task_runner(options: Options, network: Network, task_bytes: int) -> Iterator[TaskRunner]:
    """Join the cluster of the options (or RAY_ADDRESS), or start Ray on this machine with so many workers as cores, and
    memory for at least one task.

    While it lasts, SIGTERM and SIGINT end the run cleanly: what is in flight is dropped, what is finished is kept.

    Raises:
        UserError: Ray is not installed; or the cluster refuses us (ClusterRefused).
        Unfinished: The cluster does not answer, or was lost.
    """
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ModuleNotFoundError:
        raise UserError("Ray is not installed, which builds run on: pip install 'bamba-data[ray]'") from None

    joined = options.address or os.environ.get("RAY_ADDRESS")
    _connect(joined, options.workers, task_bytes)
    try:
        # Beside the driver: workers are evicted, and an actor that starts anew has forgotten what it kept.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=beside)
        runner = TaskRunner(
            rate_limit=actor(BudgetKeeper).remote(network),
            progress=actor(ProgressKeeper).remote(),
            max_in_flight=options.workers if joined else None,
            retry_seconds=network.retry_seconds,
            straggler_seconds=options.straggler_seconds,
        )
        with _signals_into(runner.signals):
            yield runner
    except RayError as error:
        raise Unfinished(
            f"the Ray cluster was lost ({plain_line(error)}); run the same command again to go on"
        ) from None
    finally:
        ray.shutdown()


def _connect(joined: str | None, workers: int | None, task_bytes: int) -> None:
    import ray

    if joined:
        where: dict[str, Any] = {"address": joined}
    else:
        where = {
            "address": "local",  # without it Ray would join whatever `ray start` left on this machine
            "num_cpus": workers or cores(),
            "_memory": max(task_bytes, memory_bytes() - OBJECT_STORE_BYTES - RAY_BYTES),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    on_term = signal.getsignal(signal.SIGTERM)
    start = functools.partial(ray.init, **where, log_to_driver=False, logging_level="error")
    try:
        join(joined, start) if joined else start()
    except SystemExit:  # Ray's own answer to SIGTERM, which would end the process by code 15 and say nothing
        raise KeyboardInterrupt from None
    except BambaError:
        raise
    except Exception as error:  # noqa: BLE001 - Ray has no one type for it
        raise not_joined(joined, error) from None
    finally:
        signal.signal(signal.SIGTERM, on_term)


@contextlib.contextmanager
def _signals_into(names: list[str]) -> Iterator[None]:
    """The names of SIGTERM and SIGINT, as they come; a second one interrupts at once."""

    def hear(number: int, frame: FrameType | None) -> None:
        if names:
            raise KeyboardInterrupt
        names.append(signal.Signals(number).name)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
