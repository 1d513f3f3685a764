"""A suite of tasks beside training: a process of its own asks each saved checkpoint that is due, one at a time.

    log: {benchmark_suite: small.yaml, benchmark_every_steps: 2000, benchmark_questions: 100}

Rank 0 starts it when a checkpoint is committed and looks now and then whether it has ended: no step waits. It is
`bamba-data model benchmark`, on the CPU or on a GPU that trains nothing. Subtasks' results and what it printed lie in
`benchmarks/` of the run's folder, its numbers go where the run's other numbers go, at the checkpoint's step. One that
fails, or is not begun because the last one is still at work, is told and changes nothing.
"""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bamba_data.errors import UserError, one_line
from bamba_data.extras import require
from bamba_data.storage.store import Store

from ..checkpoint.commits import folders
from ..config import Log

FOLDER = "benchmarks"
STOP_SECONDS = 10.0  # for one that is told to end
NICE = 10  # it gives way to what trains on the same machine
#: What would make it believe that it is a rank of the training.
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Events(Protocol):
    """Where numbers go: `observe.metrics.Metrics`."""

    def event(self, values: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """The checkpoint `name` of the state after `step`, and what asks it; `answer` takes what that prints."""

    step: int
    name: str
    answer: Path
    said: Path
    process: "subprocess.Popen[bytes]"


def check_benchmarks(config: Log, folder: Path | None) -> None:
    """`UserError` where the recipe's suite cannot be asked here: now, not when the first checkpoint is there."""
    from ..tasks.suites import suite_of

    if config.benchmark_suite is None:
        return
    suite = suite_of(config.benchmark_suite)
    require(*suite.packages)
    if folder is None:
        raise UserError("log.benchmark_suite: its results need a local folder, and the run has none: give --metrics")


class CheckpointBenchmarks:
    """Of one start of a run; only rank 0 has one.

    Args:
        checkpoints: The run's.
        folder: The run's local folder.
    """

    def __init__(self, config: Log, checkpoints: Store, folder: Path, metrics: Events, log: logging.Logger) -> None:
        self.config, self.checkpoints, self.metrics, self.log = config, checkpoints, metrics, log
        self.folder = folder / FOLDER
        self._seen_step = 0
        self._asked: _Asked | None = None
        self._ended = False

    def poll(self, saved_step: int) -> None:
        """Tell of one that has ended, begin that of a checkpoint that is due; never waits."""
        if self._asked is not None and self._asked.process.poll() is not None:
            self._tell(self._asked)
            self._asked = None
        due, self._seen_step = self._due(saved_step), saved_step
        if due:
            self._begin(saved_step)

    def _due(self, saved_step: int) -> bool:
        """Whether it was not seen before, and is to be asked."""
        every = self.config.benchmark_every_steps
        return saved_step != self._seen_step and every is not None and saved_step % every == 0

    def end(self, saved_step: int) -> None:
        """The run has come to its last step, whose checkpoint is saved: the recipe says whether it is asked, too, and
        whether `close` waits for what is at work."""
        self._ended = True
        if self.config.benchmark_wait:
            if self._asked is not None and self._due(saved_step):
                self._wait(self._asked)
            self.poll(saved_step)
        elif self._due(saved_step):
            self._left_out(saved_step, "the run has ended, and log.benchmark_wait is off")

    def close(self) -> None:
        """Wait for what is at work, or stop it: what it has finished is kept, and the same command goes on."""
        if self._asked is None:
            return
        if self._ended and self.config.benchmark_wait:
            self._wait(self._asked)
            return
        asked = self._asked
        asked.process.terminate()
        try:
            asked.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            asked.process.kill()
            asked.process.wait()
        asked.answer.unlink(missing_ok=True)
        self._asked = None
        self.log.warning(
            f"BENCHMARK of step {asked.step} stopped with the run; what it finished is kept, the rest is computed by: "
            f"bamba-data model benchmark {' '.join(self._words(asked.name))} (log.benchmark_wait waits for it)"
        )

    def _wait(self, asked: _Asked) -> None:
        self.log.info(f"waits for the benchmark of step {asked.step}")
        asked.process.wait()
        self._tell(asked)
        self._asked = None

    def _begin(self, step: int) -> None:
        name = next((one.name for one in folders(self.checkpoints) if one.whole and one.step == step), None)
        if name is None:  # swept meanwhile, or marked
            self._left_out(step, "its checkpoint is not there any more")
            return
        if self._asked is not None:
            self._left_out(step, f"that of step {self._asked.step} is still at work")
            return
        answer, said = self.folder / f"{name}.json", self.folder / f"{name}.log"
        if answer.exists():  # asked before the run was started again
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        device = self.config.benchmark_device
        gone = {*_OF_RANKS, *(variable for variable in os.environ if variable.startswith("TORCHELASTIC_"))}
        env = {variable: value for variable, value in os.environ.items() if variable not in gone}
        env["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
        command = [sys.executable, "-m", "bamba.trainer.benchmark", *self._words(name), "--json"]
        with answer.open("wb") as out, said.open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=env, start_new_session=True)
        if sys.platform != "win32":
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        self._asked = _Asked(step, name, answer, said, process)

    def _words(self, name: str) -> list[str]:
        config = self.config
        questions = [] if config.benchmark_questions is None else ["--questions", str(config.benchmark_questions)]
        words = [f"{self.checkpoints.url.rstrip('/')}/{name}", "--suite", str(config.benchmark_suite)]
        return [*words, "--out", str(self.folder / "subtasks"), *questions]

    def _tell(self, asked: _Asked) -> None:
        """Its numbers, or why there are none."""
        code = asked.process.returncode
        try:
            if code:
                lines = asked.said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise ValueError(f"exit code {code}: {lines[-1] if lines else 'it said nothing'}")
            (numbers,) = json.loads(asked.answer.read_bytes())
            values = {**numbers["tasks"], "mean": numbers["mean"]}
        except (ValueError, KeyError, TypeError, OSError) as error:
            why = one_line(error)
            asked.answer.unlink(missing_ok=True)  # a later start asks again
            self.log.warning(f"BENCHMARK of step {asked.step} failed: {why}; {asked.said} has more. Training goes on")
            self.metrics.event({"event": "benchmark failed", "step": asked.step, "why": why})
            return
        listed = "  ".join(f"{task} {100 * value:.2f}" for task, value in values.items())
        self.log.info(f"benchmark of step {asked.step}  {listed}")
        told = {f"benchmark/{task}": value for task, value in values.items()}
        self.metrics.event({"event": "benchmark", "step": asked.step, **told})

    def _left_out(self, step: int, why: str) -> None:
        self.log.warning(f"BENCHMARK of step {step} left out: {why}")
        self.metrics.event({"event": "benchmark left out", "step": step, "why": why})
