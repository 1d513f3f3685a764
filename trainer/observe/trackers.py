"""Where else a run's numbers go: TensorBoard, and by `log.trackers` Weights & Biases, MLflow, Aim.

A tracker is three things: a class with `log` and `close`, made from a `TrackerContext`; a line in TRACKERS; a name in
the recipe's `log.trackers`. Each is told where it writes by its own environment variables (WANDB_PROJECT and
WANDB_MODE, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, AIM_REPO). A run that goes on goes on in the tracker's run,
too.

They live in a thread: one that is slow, away or broken costs a line on stderr, and never a step.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bamba_data.errors import UserError

MAX_WAITING = 10_000  # points; at a line every ten seconds a day of a tracker that is away
REOPEN_SECONDS = 60.0  # between two tries of one that failed
CLOSE_SECONDS = 60.0  # that a run's end waits for


@dataclass(frozen=True, slots=True)
class TrackerContext:
    """What a tracker is told at its start: the run's own identity, which all its restarts share, its name and recipe,
    the step before the first that comes, and a local folder, if there is one."""

    run: str
    name: str
    recipe: Mapping[str, Any]
    after_step: int
    folder: Path | None


class Tracker(Protocol):
    """Takes numbers of a step. Any exception means: not now."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files; what an earlier start wrote of later steps is hidden."""

    def __init__(self, context: TrackerContext) -> None:
        from torch.utils.tensorboard import SummaryWriter

        assert context.folder is not None
        purge = context.after_step + 1 if context.after_step else None
        self._writer = SummaryWriter(str(context.folder / "tensorboard"), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Its own count of steps never goes back, a run's does: the step is a value that everything is drawn over."""

    def __init__(self, context: TrackerContext) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "bamba"),
            id=context.run,
            resume="allow",
            name=context.name,
            config=dict(context.recipe),
            dir=None if context.folder is None else str(context.folder),
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """A run is found again by its tag `bamba_run`; MLflow's own id is drawn by its server."""

    def __init__(self, context: TrackerContext) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client: Any = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", context.name)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        earlier = self._client.search_runs([experiment], f"tags.bamba_run = '{context.run}'")
        if earlier:
            self._run = earlier[0].info.run_id
            return
        begun = self._client.create_run(experiment, run_name=context.name, tags={"bamba_run": context.run})
        self._run = begun.info.run_id
        flat = [Param(name, str(value)[:500]) for name, value in _flat(context.recipe)]
        for first in range(0, len(flat), 100):  # as many as a call may hold
            self._client.log_batch(self._run, params=flat[first : first + 100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Aim:
    """Writes to AIM_REPO, or to the run's local folder."""

    def __init__(self, context: TrackerContext) -> None:
        import aim

        place = os.environ.get("AIM_REPO") or (None if context.folder is None else str(context.folder))
        if place is None:
            raise UserError("AIM_REPO is not set, and the run has no local folder")
        if not aim.Repo.exists(place):
            aim.Repo.from_path(place, init=True)
        # By its name: attributes of a run are found only once it was indexed, its name at once.
        name = f"{context.name} {context.run}"
        query = aim.Repo(place).query_runs(f"run.name == '{name}'", report_mode=aim.sdk.types.QueryReportMode.DISABLED)
        earlier = [answer.run for answer in query.iter_runs()]
        self._run: Any = aim.Run(
            run_hash=earlier[0].hash if earlier else None,
            repo=place,
            experiment=context.name,
            system_tracking_interval=None,
            capture_terminal_logs=False,
        )
        self._run.name = name
        self._run["recipe"] = dict(context.recipe)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.track(value, name=name, step=step)

    def close(self) -> None:
        self._run.close()


TRACKERS: Mapping[str, Callable[[TrackerContext], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "aim": Aim,
}


def check_installed(names: Sequence[str]) -> None:
    """`UserError` that says what to install."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"log.trackers: {name} is not installed here: pip install {name}")


class Trackers:
    """Those of one start of a run."""

    def __init__(self, names: Sequence[str], context: TrackerContext, log: logging.Logger) -> None:
        self._context, self._log = context, log
        self._open: dict[str, Tracker | None] = dict.fromkeys(names)
        self._next_try = dict.fromkeys(names, 0.0)
        self._lost = dict.fromkeys(names, 0)
        self._points: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True, name="trackers")
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Never waits: of points that nobody takes the latest are lost."""
        try:
            self._points.put_nowait((step, values))
        except queue.Full:
            for name in self._lost:
                self._lost[name] += 1

    def close(self) -> None:
        """Wait for all that was logged, but not for ever."""
        try:
            self._points.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            pass
        else:
            self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._log.warning(f"trackers: still busy after {CLOSE_SECONDS:.0f} s, left alone")
        for name, lost in self._lost.items():
            if lost:
                self._log.warning(
                    f"tracker {name}: {lost} points are lost; metrics.jsonl has them, if the run has a folder"
                )

    def _work(self) -> None:
        while (point := self._points.get()) is not None:
            for name in self._open:
                self._hand_over(name, *point)
        for name, tracker in self._open.items():
            if tracker is not None:
                self._attempt(name, tracker.close)

    def _hand_over(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if self._open[name] is None and time.monotonic() >= self._next_try[name]:
            self._attempt(name, lambda: self._open.update({name: TRACKERS[name](self._context)}))
        tracker = self._open[name]
        if tracker is None or not self._attempt(name, lambda: tracker.log(step, values)):
            self._lost[name] += 1

    def _attempt(self, name: str, what: Callable[[], object]) -> bool:
        try:
            what()
        except Exception as error:  # noqa: BLE001 (other people's code, which must not end a training)
            said = " ".join(str(error).split())[:300]
            self._log.warning(
                f"TRACKER {name}: {type(error).__name__}: {said}; training goes on, it is tried again later"
            )
            self._open[name] = None
            self._next_try[name] = time.monotonic() + REOPEN_SECONDS
            return False
        return True


def _flat(values: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flat(value, f"{at}{name}.") if isinstance(value, Mapping) else [(f"{at}{name}", value)]
    return flat
