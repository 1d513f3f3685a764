"""A training run from its first step to its last, however often it is stopped on the way.

Step s learns from the s-th batch of the feed and is done when its outcome was read, which happens while step s + 1 is
computed. A checkpoint holds the state after a step: model, moments, the feed's state, tokens by source, the recipe.
There is no random state to keep: first values come from the seed and the name, and the order of rows from the feed.
"""

import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from bamba_data.errors import Interrupted, OtherModel, UserError
from bamba_data.storage.store import open_store

from .anomaly import BadSteps, LossSpikes, StepRange
from .checkpoint.manager import Checkpointer, FailedSave
from .config import Recipe
from .data.batch import Batch
from .data.protocol import Feed
from .distributed.consistency import describe_changes, describe_shape_changes, gathered, require_agreement, saved_recipe
from .distributed.fsdp import World, distribute, reshard_model
from .evaluation import first_rows, losses_by_source
from .model.bamba import Bamba
from .model.init_weights import init_weights
from .observe.memory_estimate import check_fits_memory
from .observe.memory_snapshot import MemorySnapshot
from .observe.metrics import Metrics, nothing, say
from .observe.profiler import StepProfiler
from .observe.stragglers import StragglerDetector
from .optim.adamw import AdamW
from .optim.lr_schedule import learning_rate, warmup_note
from .step import PendingStepMetrics, Stepper
from .warm_start import load_start

#: Between the tries of a last save, that a run ends with; what stops a run kills it soon after.
LAST_TRIES_SECONDS = (2.0, 10.0)
MEMORY = "a record of the GPU's memory, for pytorch.org/memory_viz"
INSIST_SECONDS = 3.0  # a second Ctrl-C after so long does not wait for a save; sooner it may be the launcher's copy


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
    """A step whose outcome is on its way."""

    step: int
    telltale: PendingStepMetrics
    lr: float
    waited_seconds: float
    batch_rows: Tensor
    end_row: int


class Run:
    """One run of `recipe` with its checkpoints below `out`; every rank makes one."""

    def __init__(self, recipe: Recipe, feed: Feed, world: World, out: str, folder: Path | None) -> None:
        self.recipe, self.feed, self.world = recipe, feed, world
        self.say = say if world.leads else nothing
        self.model = build(recipe, world)
        self.optimizer = AdamW(self.model, recipe.optimizer, world)
        self.stepper = Stepper(self.model, self.optimizer, recipe.compute, world, len(feed.sources))
        self.checkpointer = Checkpointer(open_store(f"{out}/checkpoints"), recipe.checkpoints, world, self.say)
        self.id = secrets.token_hex(8)  # of this run, which all its restarts share: trackers know it by that
        self.metrics = Metrics(recipe, world, feed.sources, folder)
        self.stragglers = StragglerDetector(world)
        self.profile = StepProfiler(recipe.log, world, folder)
        self.memory = MemorySnapshot(recipe.log, world, folder)
        self.bad_steps = BadSteps(recipe.guard)
        self.spikes = LossSpikes(recipe.guard)
        self.done_steps = 0
        self.accepted_changes: list[str] = []
        self.rewinds = 0
        self._pending: deque[_PendingStep] = deque()
        self._ends: deque[tuple[int, int]] = deque(maxlen=recipe.guard.spike_steps + 4)  # of late steps: (step, row)
        self._spike: StepRange | None = None
        self._left_out: list[tuple[int, int, str]] = []  # rows [begin, end) of spikes, and why
        self._last = PendingStepMetrics(torch.zeros(1, device=world.device))  # when the first step's time begins
        self._stop = False
        self._asked_at = 0.0
        self._save_again = False  # some step's outcome asked for it
        self._told: FailedSave | None = None

    # ---- state

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the run, by the name it has in a checkpoint."""
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
            "rewinds": self.rewinds,
            "changes": self.accepted_changes,
            "run": self.id,
        }

    def begin(self, *, accept_changes: bool = False) -> None:
        """Take the run's folder, go to where its newest whole checkpoint is, or to step 0, and make sure that all
        ranks are there."""

        def accept(commit: dict[str, Any]) -> None:
            saved = saved_recipe(commit)
            if shape := describe_shape_changes(saved, self.recipe):
                raise OtherModel(f"the checkpoint of step {commit['step']} here", "; ".join(shape))
            changes = describe_changes(saved.model_dump(mode="json"), self.recipe.model_dump(mode="json"))
            learned = describe_changes(saved.learned(), self.recipe.learned())
            if learned and not accept_changes:
                raise UserError(
                    f"the checkpoints here are of another recipe ({'; '.join(learned)}). Use the old values, another "
                    "folder (with start_from, to begin with this model), or --accept-changes to go on with the new ones"
                )
            self.accepted_changes = [*commit["changes"], *(f"after step {commit['step']}: {c}" for c in changes)]

        with _listening(_leave):
            self.checkpointer.take()
            self._go_to_its_place(accept)

    def _go_to_its_place(self, accept: Callable[[dict[str, Any]], None]) -> None:
        commit = self.checkpointer.restore(self.state(), accept)
        if commit is not None:
            self._resume(commit)
        elif self.recipe.start_from:
            begun = load_start(self.recipe.start_from, self.state())
            self.metrics.open(self.id, 0)
            self.say(begun)
        else:
            self.metrics.open(self.id, 0)
            self.say(f"no checkpoint below {self.checkpointer.store.url}: begins at step 0")
        if self.recipe.log.evaluate_every_steps:
            self.feed.held_out()  # so that a dataset without held-out documents is refused now, not hours later
        self.checkpointer.prepare(self.state())
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
        self.rewinds = max(self.rewinds, commit["rewinds"])
        self.id = commit.get("run", self.id)  # none before runs had one
        self.metrics.open(self.id, self.done_steps)
        self.metrics.event({"event": "resumed", "step": self.done_steps, "world_size": self.world.size})
        self.say(f"goes on after step {self.done_steps} (saved by {commit['world_size']} ranks, now {self.world.size})")

    # ---- steps

    def train(self) -> None:
        """To the last step. `Interrupted` after SIGTERM or Ctrl-C, with everything saved."""
        with _listening(self._asked_to_stop):
            batches = iter(self.feed)
            while self.done_steps < self.recipe.schedule.steps:
                stopped = self._step(batches)
                if self._spike is not None and self._rewound(self._spike):
                    batches = iter(self.feed)
                    continue
                ended = self.done_steps == self.recipe.schedule.steps
                evaluate_every = self.recipe.log.evaluate_every_steps
                if evaluate_every and (ended or self.done_steps % evaluate_every == 0):
                    stopped |= self._read(0)
                    self._evaluate()
                due = self._save_again or self.done_steps % self.recipe.checkpoints.every_steps == 0
                if ended or stopped or due:
                    stopped |= self._read(0)
                    self._save()
                if stopped and not ended:
                    self._make_sure()
                    raise Interrupted(
                        f"stopped after step {self.done_steps}, saved; the same command goes on from there"
                    )
            self._make_sure()

    # ---- saves

    def _save(self) -> None:
        self._save_again = False
        self.checkpointer.save(self.done_steps, self.state(), self.about())
        self._tell_of_saves()

    def _tell_of_saves(self) -> None:
        """Loudly, once, when a save has failed, and when one ends well after that."""
        failed = self.checkpointer.failed
        if failed is self._told:
            return
        self._told, saved = failed, self.checkpointer.saved_step
        if failed is None:
            self.say(f"SAVED AGAIN: after step {saved}")
            self.metrics.event({"event": "saved again", "step": saved})
            return
        self.say(
            f"SAVE FAILED after step {failed.step}: {failed.error}. Training goes on and will try again; the newest "
            f"checkpoint is of step {saved}"
        )
        event = {"event": "save failed", "step": failed.step, "why": str(failed.error), "saved_step": saved}
        self.metrics.event(event)

    def _make_sure(self) -> None:
        """Wait for the last save; where it fails, try a few times more, and end with its error."""
        for seconds in (*LAST_TRIES_SECONDS, None):
            failed = self.checkpointer.finish()
            self._tell_of_saves()
            if failed is None:
                return
            if seconds is None:
                saved = self.checkpointer.saved_step
                self.say(f"NOT SAVED: the steps after {saved} are lost, the newest checkpoint is of step {saved}")
                raise failed.error
            time.sleep(seconds)
            self._save()

    def close(self) -> None:
        try:
            self._traced("a trace for Perfetto", self.profile.end)
            self._traced(MEMORY, self.memory.end)
            self.checkpointer.close()
        finally:
            self.feed.close()
            self.metrics.close()

    def _traced(self, what: str, written: Callable[[], Path | None]) -> None:
        try:
            if file := written():
                self.say(f"{what}: {file}")
        except (OSError, RuntimeError) as error:  # a full disk: nothing that training needs
            self.say(f"not written: {what} ({error})")

    def _evaluate(self) -> None:
        """The loss on held-out rows, by source, into the metrics."""
        sources, batches = self.feed.held_out()
        few = first_rows(batches, self.recipe.log.evaluate_rows, self.recipe.data.batch_rows)
        found = losses_by_source(self.model, few, sources, self.world.device, self.recipe.compute.micro_rows)
        reshard_model(self.model)
        values = {f"held_out/{name}": loss for name, (loss, _) in found.items()}
        self.say("held out  " + ("  ".join(f"{name} {loss:.4f}" for name, (loss, _) in found.items()) or "no rows"))
        self.metrics.event({"event": "held out", "step": self.done_steps, **values})

    def _rewound(self, spike: StepRange) -> bool:
        """Go back to before a spike and leave its rows out, if there is a checkpoint and the recipe still allows it."""
        self._spike = None
        self._read(0)
        ends = dict(self._ends)
        allowed = self.rewinds < self.recipe.guard.max_rewinds and spike.first - 1 in ends
        why = f"loss spike in steps {spike.first} to {spike.last}"
        commit = self.checkpointer.go_back_before(spike.first, why, self.state()) if allowed else None
        if commit is None:
            self.say(f"LOSS SPIKE in steps {spike.first} to {spike.last}: goes on, there is no way back from here")
            return False
        first, end = ends[spike.first - 1], ends[spike.last]
        self.rewinds += 1
        self._resume(commit)
        self._left_out.append((first, end, why))
        for begin, stop, reason in self._left_out:  # the checkpoint may be older than an earlier decision
            if begin >= self.feed.row:
                self.feed.skip(begin, stop - begin, reason)
        self.spikes.forget()
        self.say(
            f"LOSS SPIKE in steps {spike.first} to {spike.last}: back to step {self.done_steps}, rows {first} to "
            f"{end - 1} are left out"
        )
        self.metrics.event({"event": "rewind", "step": spike.last, "to": self.done_steps, "rows": [first, end - 1]})
        return True

    def _step(self, batches: Iterator[Any]) -> bool:
        """Start one step, read the outcome of the one before; whether some process was asked to stop."""
        step = self.done_steps + 1
        if self.world.leads:
            self.checkpointer.poll()
            self._tell_of_saves()
        self._traced("a trace for Perfetto", lambda: self.profile.before(step))
        self._traced(MEMORY, lambda: self.memory.before(step))
        before = time.monotonic()
        batch = Batch.of(next(batches))
        self._ends.append((step, self.feed.row))
        waited = time.monotonic() - before
        lr = learning_rate(self.recipe.schedule, step)
        again = self.world.leads and self.checkpointer.due_again()
        telltale = self.stepper(batch, lr, stop=self._stop, save=again, before_update=self.checkpointer.staged)
        self.done_steps = step
        self._pending.append(_PendingStep(step, telltale, lr, waited, batch.row, self.feed.row))
        return self._read(1)

    def _read(self, keep: int) -> bool:
        """Read all outcomes but the newest `keep`; whether one of them asks to stop."""
        stop = False
        while len(self._pending) > keep:
            pending = self._pending.popleft()
            outcome = pending.telltale.read()
            stop |= outcome.stop
            self._save_again |= outcome.save
            self.metrics.see(outcome, pending.telltale.seconds_after(self._last), pending.waited_seconds)
            self._last = pending.telltale
            self._spike = self._spike or self.spikes.see(pending.step, outcome.loss)
            if not outcome.healthy:
                rows = _named(pending.batch_rows)
                self.say(f"BAD STEP {pending.step}: gradient norm {outcome.grad_norm:g}, left out; {rows}")
                self.metrics.event({"event": "bad step", "step": pending.step, "rows": rows})
                self.bad_steps.see(pending.step, outcome, rows)
            if pending.step % self.recipe.log.every_steps == 0 or pending.step == self.recipe.schedule.steps:
                epochs = self.feed.epochs(pending.end_row)
                saved, bad = self.checkpointer.saved_step, self.bad_steps.count
                line = self.metrics.line(pending.step, outcome, pending.lr, bad, epochs, saved)
                for slow in self.stragglers.check(line["loader_wait"]):
                    self.say(slow)
                    self.metrics.event({"event": "slow rank", "step": pending.step, "what": slow})
        return stop

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._stop and time.monotonic() - self._asked_at > INSIST_SECONDS:
            raise KeyboardInterrupt
        if not self._stop:
            self._asked_at = time.monotonic()
        self._stop = True


@contextmanager
def _listening(asked: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """What SIGTERM and Ctrl-C do meanwhile."""
    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """Where no step was taken there is nothing to save."""
    raise Interrupted("stopped before the first step; the same command begins anew")


def _named(rows: Tensor) -> str:
    """The rows of a step over all ranks, in words; a collective call."""
    real = rows[rows >= 0]
    pairs = gathered((int(real.min()), int(real.max())) if len(real) else None)
    ends = [end for pair in pairs if pair for end in pair]
    return f"rows {min(ends)} to {max(ends)} of the order" if ends else "no rows"


def train(recipe: Recipe, feed: Feed, world: World, out: str, folder: Path | None, *, accept_changes: bool) -> None:
    """Begin or go on, to the end."""
    run = Run(recipe, feed, world, out, folder)
    if note := warmup_note(recipe.schedule):
        run.say(note)
    try:
        run.begin(accept_changes=accept_changes)
        run.train()
    finally:
        run.close()
