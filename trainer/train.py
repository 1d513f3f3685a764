"""A training run from its first step to its last, however often it is stopped on the way.

Step s learns from the s-th batch of the feed and is done when its numbers were read, which happens while step s + 1 is
computed. A checkpoint holds the state after a step: model, moments, the feed's state, tokens by source, the recipe.
There is no random state to keep: first values come from the seed and the name, and the order of rows from the feed.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import Interrupted
from bamba_data.storage.store import open_store

from .anomaly import BadSteps, LossSpikes, StepRange
from .checkpoint.manager import Checkpointer
from .config import Recipe
from .data.batch import Batch
from .data.protocol import Feed
from .distributed.consistency import accept_recipe, gathered, require_agreement, require_parts
from .distributed.fsdp import World, distribute, reshard_model
from .evaluation import first_rows, losses_by_source
from .model.bamba import Bamba
from .model.init_weights import init_weights
from .observe.benchmarks import CheckpointBenchmarks, check_benchmarks
from .observe.memory_estimate import check_fits_memory, memory_note
from .observe.messages import rank_zero_logger
from .observe.metrics import Metrics
from .observe.stragglers import StragglerDetector
from .observe.traces import Traces
from .optim.adamw import AdamW
from .optim.lr_schedule import learning_rate, warmup_note
from .rewind import Rewinds
from .run_saver import RunSaver
from .step import PendingStepMetrics, Stepper
from .stop_signals import StopRequest, leave_at_once, stop_signals
from .warm_start import load_start


def build(recipe: Recipe, world: World) -> Bamba:
    """The model of a recipe on this rank's device, sharded, with its first values."""
    check_fits_memory(recipe, world.size, world.device)
    with torch.device("meta"):
        model = Bamba(recipe.model, recipe.compute.residual, recipe.compute.loss_chunk_tokens)
    distribute(model, recipe.compute, world, low_memory=recipe.optimizer.memory == "low")
    init_weights(model, recipe.model, recipe.seed)
    return model


@dataclass(frozen=True, slots=True)
class _PendingStep:
    """A step whose numbers are on their way to the host."""

    step: int
    metrics: PendingStepMetrics
    lr: float
    waited_seconds: float
    batch_rows: Tensor
    end_row: int


class Run:
    """One run of `recipe` with its checkpoints below `out`; every rank makes one and calls the same verbs.

    Args:
        feed: This rank's rows of each step.
        out: A local path or s3://bucket/prefix.
        folder: Where metrics and traces go, on rank 0; None for none.
    """

    def __init__(self, recipe: Recipe, feed: Feed, world: World, out: str, folder: Path | None) -> None:
        self.recipe, self.feed, self.world = recipe, feed, world
        self.log = rank_zero_logger(world.leads)
        self.model = build(recipe, world)
        self.optimizer = AdamW(self.model, recipe.optimizer, world)
        self.stepper = Stepper(self.model, self.optimizer, recipe.compute, world, len(feed.sources))
        self.checkpointer = Checkpointer(open_store(f"{out}/checkpoints"), recipe.checkpoints, world, self.log)
        self.id = secrets.token_hex(8)  # of this run, which all its restarts share: trackers know it by that
        self.metrics = Metrics(recipe, world, feed.sources, folder, self.log)
        self.metrics.beside_bytes = self.stepper.gradients.device_bytes
        self.saver = RunSaver(
            self.checkpointer, lambda: (self.done_steps, self.state(), self.about()), self.metrics, self.log
        )
        check_benchmarks(recipe.log, folder)
        self.benchmarks: CheckpointBenchmarks | None = None
        if recipe.log.benchmark_suite is not None and world.leads and folder is not None:
            self.benchmarks = CheckpointBenchmarks(recipe.log, self.checkpointer.store, folder, self.metrics, self.log)
        self.stragglers = StragglerDetector(world)
        self.traces = Traces(recipe.log, world, folder, self.log)
        self.bad_steps = BadSteps(recipe.guard)
        self.spikes = LossSpikes(recipe.guard)
        self.rewinds = Rewinds(recipe.guard)
        self.done_steps = 0
        self.accepted_changes: list[str] = []
        self._pending: deque[_PendingStep] = deque()
        self._spike: StepRange | None = None
        self._last = PendingStepMetrics(torch.zeros(1, device=world.device))  # when the first step's time begins
        self._stop = StopRequest()
        self._save_again = False  # some rank asked for it, with the last step whose numbers were read

    # ---- state

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the run, by the name it has in a checkpoint; what is done with them comes after all that the
        last update sends between ranks."""
        self.stepper.gradients.weights_settled()
        named = {f"model.{name}": value.detach() for name, value in self.model.named_parameters()}
        return named | {f"optimizer.{name}": value for name, value in self.optimizer.state()}

    def about(self) -> dict[str, Any]:
        """All else that a checkpoint holds."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "learned": self.recipe.learned_digest(),
            "feed": self.feed.state_dict(),
            "tokens": self.metrics.tokens,
            "bad_steps": self.bad_steps.count,
            "rewinds": self.rewinds.count,
            "changes": self.accepted_changes,
            "run": self.id,
        }

    def begin(self, *, accept_changes: bool = False) -> None:
        """Take the run's folder, go to where its newest whole checkpoint is, or to step 0, and make sure that all
        ranks are there.

        Args:
            accept_changes: Go on although the recipe learns something else than the checkpoint's.

        Raises:
            RunHeld: Another process is at work in the folder.
            UserError: The recipe changed, or the ranks differ.
            CorruptCheckpoint: There are checkpoints, and none of them is whole.
        """

        def accept(commit: dict[str, Any]) -> None:
            changes = accept_recipe(commit, self.recipe, accept_changes=accept_changes)
            self.accepted_changes = [*commit["changes"], *changes]

        with stop_signals(leave_at_once):
            self.checkpointer.take()
            self._restore(accept)

    def _restore(self, accept: Callable[[dict[str, Any]], None]) -> None:
        self.checkpointer.prepare(self.state())
        commit = self.checkpointer.restore(self.state(), accept)
        if commit is not None:
            self._resume(commit)
        else:
            start = self.recipe.start_from
            said = load_start(start, self.state()) if start else None
            self.metrics.open(self.id, 0)
            self.log.info(said or f"no checkpoint below {self.checkpointer.store.url}: begins at step 0")
        if self.recipe.log.evaluate_every_steps:
            self.feed.held_out()  # so that a dataset without held-out documents is refused now, not hours later
        self.checkpointer.ready()
        if self.done_steps < self.recipe.schedule.steps:
            self.checkpointer.check_room()
        require_agreement(
            {"recipe": self.recipe.learned(), "data": self.feed.state_dict(), "step": self.done_steps},
            "Give all ranks the same recipe and dataset",
        )
        self._last = PendingStepMetrics(torch.zeros(1, device=self.world.device))

    def _resume(self, commit: dict[str, Any]) -> None:
        self.feed.load_state_dict(commit["feed"])
        self.done_steps = commit["step"]
        self.stepper.sources = len(self.feed.sources)
        self.metrics.resume(self.feed.sources, commit["tokens"])
        self.bad_steps.count = commit["bad_steps"]
        self.rewinds.count = max(self.rewinds.count, commit["rewinds"])
        self.id = commit.get("run", self.id)  # none before runs had one
        self.metrics.open(self.id, self.done_steps)
        self.metrics.event({"event": "resumed", "step": self.done_steps, "world_size": self.world.size})
        self.log.info(
            f"goes on after step {self.done_steps} (saved by {commit['world_size']} ranks, now {self.world.size})"
        )

    # ---- steps

    def train(self) -> None:
        """To the last step.

        Raises:
            Interrupted: After SIGTERM or Ctrl-C, with everything saved.
            TooManyBadSteps: More steps without a finite gradient than the recipe allows.
        """
        with stop_signals(self._stop):
            batches = self._batches()
            while self.done_steps < self.recipe.schedule.steps:
                stopped = self._step(batches)
                if self._spike is not None and self._rewind(self._spike):
                    batches = self._batches()
                    continue
                ended = self.done_steps == self.recipe.schedule.steps
                evaluate_every = self.recipe.log.evaluate_every_steps
                if evaluate_every and (ended or self.done_steps % evaluate_every == 0):
                    stopped |= self._read_pending(0)
                    self._evaluate()
                due = self._save_again or self.done_steps % self.recipe.checkpoints.every_steps == 0
                if ended or stopped or due:
                    stopped |= self._read_pending(0)
                    self._save_again = False
                    self.saver.save()
                if stopped and not ended:
                    self.saver.finish()
                    raise Interrupted(
                        f"stopped after step {self.done_steps}, saved; the same command goes on from there"
                    )
            self.saver.finish()
        if self.benchmarks is not None:
            self.benchmarks.end(self.checkpointer.saved_step)

    def _batches(self) -> Iterator[Batch]:
        """This rank's rows of each step from here on."""
        context = self.world.context
        for number, loaded in enumerate(self.feed):
            batch = Batch.of(loaded)
            if context.ranks > 1 and number == 0:
                part_tokens = self.recipe.data.row_tokens // context.ranks
                require_parts(batch.row.tolist(), batch.ends(), part_tokens, context.ranks)
            yield batch

    def _step(self, batches: Iterator[Batch]) -> bool:
        """Start one step, read the numbers of the one before; whether some process was asked to stop."""
        step = self.done_steps + 1
        if self.world.leads:
            self.checkpointer.poll()
            self.saver.report()
        if self.benchmarks is not None:
            self.benchmarks.poll(self.checkpointer.saved_step)
        self.traces.before(step)
        before = time.monotonic()
        batch = next(batches)
        self.rewinds.note_step(step, self.feed.row)
        waited_seconds = time.monotonic() - before
        lr = learning_rate(self.recipe.schedule, step)
        again = self.world.leads and self.checkpointer.due_again()
        # Weights may change only when the copy of them that is being saved is whole.
        metrics = self.stepper(batch, lr, stop=self._stop.asked, save=again, before_update=self.checkpointer.staged)
        self.done_steps = step
        self._pending.append(_PendingStep(step, metrics, lr, waited_seconds, batch.row, self.feed.row))
        return self._read_pending(1)

    def _read_pending(self, keep: int) -> bool:
        """Read the numbers of all steps but the newest `keep`; whether one of them asks to stop.

        With `keep` 1 the host waits for the step before the one that it just started: the device is never idle.
        """
        stop = False
        while len(self._pending) > keep:
            pending = self._pending.popleft()
            metrics = pending.metrics.read()
            stop |= metrics.stop
            self._save_again |= metrics.save
            self.metrics.see(metrics, pending.metrics.seconds_after(self._last), pending.waited_seconds)
            self._last = pending.metrics
            self._spike = self._spike or self.spikes.see(pending.step, metrics.loss)
            if not metrics.healthy:
                rows = _describe_rows(pending.batch_rows)
                self.log.warning(f"BAD STEP {pending.step}: gradient norm {metrics.grad_norm:g}, left out; {rows}")
                self.metrics.event({"event": "bad step", "step": pending.step, "rows": rows})
                self.bad_steps.see(pending.step, metrics, rows)
            if pending.step % self.recipe.log.every_steps == 0 or pending.step == self.recipe.schedule.steps:
                epochs = self.feed.epochs(pending.end_row)
                saved, bad = self.checkpointer.saved_step, self.bad_steps.count
                line = self.metrics.line(pending.step, metrics, pending.lr, bad, epochs, saved)
                for straggler in self.stragglers.check(line["loader_wait"]):
                    self.log.warning(straggler)
                    self.metrics.event({"event": "slow rank", "step": pending.step, "what": straggler})
        return stop

    def _evaluate(self) -> None:
        """The loss on held-out rows, by source, into the metrics."""
        sources, batches = self.feed.held_out()
        few = first_rows(batches, self.recipe.log.evaluate_rows, self.recipe.data.batch_rows)
        losses = losses_by_source(self.model, few, sources, self.world.device, self.recipe.compute.micro_rows)
        reshard_model(self.model)
        values = {f"held_out/{name}": loss for name, (loss, _) in losses.items()}
        listed = "  ".join(f"{name} {loss:.4f}" for name, (loss, _) in losses.items())
        self.log.info(f"held out  {listed or 'no rows'}")
        self.metrics.event({"event": "held out", "step": self.done_steps, **values})

    def _rewind(self, spike: StepRange) -> bool:
        """Go back to before a spike and leave its rows out, if there is a checkpoint and the recipe still allows it."""
        self._spike = None
        self._read_pending(0)
        rows = self.rewinds.rows_of(spike)
        commit = self.checkpointer.go_back_before(spike.first, rows.why, self.state()) if rows else None
        if rows is None or commit is None:
            self.log.warning(
                f"LOSS SPIKE in steps {spike.first} to {spike.last}: goes on, there is no way back from here"
            )
            return False
        self.rewinds.count += 1
        self._resume(commit)
        self.rewinds.leave_out(rows, self.feed)
        self.spikes.forget()
        last_row = rows.end_row - 1
        self.log.warning(
            f"LOSS SPIKE in steps {spike.first} to {spike.last}: back to step {self.done_steps}, rows {rows.first_row} "
            f"to {last_row} are left out"
        )
        event = {"event": "rewind", "step": spike.last, "to": self.done_steps, "rows": [rows.first_row, last_row]}
        self.metrics.event(event)
        return True

    # ---- end

    def close(self) -> None:
        """Wait for the save under way, end traces, let other runs into the folder."""
        try:
            self.traces.end()
            self.checkpointer.close()
        finally:
            if self.benchmarks is not None:
                self.benchmarks.close()
            self.feed.close()
            self.metrics.close()


def _describe_rows(rows: Tensor) -> str:
    """The rows of a step over all ranks, in words; a collective call."""
    real = rows[rows >= 0]
    pairs = gathered((int(real.min()), int(real.max())) if len(real) else None)
    ends = [end for pair in pairs if pair for end in pair]
    return f"rows {min(ends)} to {max(ends)} of the order" if ends else "no rows"


def train(recipe: Recipe, feed: Feed, world: World, out: str, folder: Path | None, *, accept_changes: bool) -> None:
    """Begin or go on, to the end: see `Run` for what is given, and its `begin` and `train` for what is raised."""
    run = Run(recipe, feed, world, out, folder)
    for note in (warmup_note(recipe.schedule), memory_note(recipe, world.size, world.device)):
        if note:
            run.log.info(note)
    try:
        run.begin(accept_changes=accept_changes)
        run.train()
    finally:
        run.close()
