"""A Ray cluster for the time of a job: joined, or started on this machine, with the actor that all tasks share."""

import contextlib
import functools
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from bamba_data.errors import BambaError, Unfinished
from bamba_data.extras import require
from bamba_data.recipe import Network
from bamba_data.resources import cores

from .connection import join, not_joined, plain_line
from .executor import Options, TaskRunner
from .job_keeper import JobKeeper
from .local_ray import local_arguments, without_services


@contextlib.contextmanager
def task_runner(
    options: Options, network: Network, task_bytes: int, useful_workers: int | None = None
) -> Iterator[TaskRunner]:
    """Join the cluster of the options (or RAY_ADDRESS), or start Ray on this machine.

    While it lasts, SIGTERM and SIGINT end the run cleanly: what is in flight is dropped, what is finished is kept.

    Args:
        options: Where to run.
        network: The request budget.
        task_bytes: Memory of a task; a Ray that is started here has it for at least one.
        useful_workers: Of a Ray that is started here, where the options do not say; as many as cores without it.

    Raises:
        MissingPackage: Ray is not installed.
        ClusterRefused: The cluster refuses us.
        Unfinished: The cluster does not answer, or was lost.
    """
    require("ray")
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    _connect(options.cluster, options.workers or useful_workers or cores(), task_bytes)
    try:
        # Beside the driver: workers are evicted, and an actor that starts anew has forgotten what it kept.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=beside)
        keeper = actor(JobKeeper).remote(network)
        runner = TaskRunner(
            rate_limit=keeper,
            progress=keeper,
            max_in_flight=options.workers if options.cluster else None,
            retry_seconds=network.retry_seconds,
            straggler_seconds=options.straggler_seconds,
        )
        with signals_into(runner.signals):
            yield runner
    except RayError as error:
        raise Unfinished(
            f"the Ray cluster was lost ({plain_line(error)}); run the same command again to go on"
        ) from None
    finally:
        ray.shutdown()


def _connect(joined: str | None, workers: int, task_bytes: int) -> None:
    import ray

    where: dict[str, Any] = {"address": joined} if joined else local_arguments(workers, task_bytes)
    on_term = signal.getsignal(signal.SIGTERM)
    start = functools.partial(ray.init, **where, log_to_driver=False, logging_level="error")
    try:
        if joined:
            join(joined, start)
        else:
            with without_services():
                start()
    except SystemExit:  # Ray's own answer to SIGTERM, which would end the process by code 15 and say nothing
        raise KeyboardInterrupt from None
    except BambaError:
        raise
    except Exception as error:  # noqa: BLE001 - Ray has no one type for it
        raise not_joined(joined, error) from None
    finally:
        signal.signal(signal.SIGTERM, on_term)


@contextlib.contextmanager
def signals_into(names: list[str]) -> Iterator[None]:
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
