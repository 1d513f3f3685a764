"""One training step: this rank's rows through the model in micro-batches, one update, one vector of what happened.

The loss is the mean over all real targets of the global batch, so it does not matter how rows fall to ranks, how many
go through at once, or how many rows are padding. Nothing in a step waits for the device; what the host wants to know
is reduced over the ranks there and read a step later (see `PendingStepMetrics`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .config import Compute
from .data.batch import Batch, SourceSums
from .distributed.fsdp import World
from .loss import backward
from .model.bamba import Bamba
from .optim.adamw import AdamW
from .optim.gradient_sync import GradientSync


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What a step did, the same on all ranks. Losses are in nats a token; `source_targets` counts the real targets of
    each source, in the loader's order of sources. `stop` says that some process was asked to end, `save` that one asks
    for a checkpoint of the state as it is now."""

    loss: float
    grad_norm: float
    healthy: bool
    stop: bool
    save: bool
    source_loss_sums: list[float]
    source_targets: list[int]

    @property
    def targets(self) -> int:
        return sum(self.source_targets)


class PendingStepMetrics:
    """The vector of a step on its way to the host. `read` waits for the step to be done, if it is not."""

    def __init__(self, vector: Tensor) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if vector.is_cuda else None  # type: ignore[no-untyped-call]
        self._ended = time.monotonic()  # where there is no device, the step is done
        self._vector = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=vector.is_cuda)
        self._vector.copy_(vector, non_blocking=True)
        if self._event:
            self._event.record()

    def seconds_after(self, earlier: "PendingStepMetrics") -> float:
        """From the end of one step to the end of this one; both must have been read."""
        if self._event and earlier._event:
            return float(earlier._event.elapsed_time(self._event)) / 1000
        return self._ended - earlier._ended

    def read(self) -> StepMetrics:
        if self._event:
            self._event.synchronize()
        norm, healthy, stop, save, *rest = self._vector.tolist()
        half = len(rest) // 2
        sums, counts = rest[:half], [round(count) for count in rest[half:]]
        loss = sum(sums) / max(sum(counts), 1)
        return StepMetrics(loss, norm, healthy > 0, stop > 0, save > 0, sums, counts)


class Stepper:
    """Takes steps with a model and its optimizer."""

    def __init__(self, model: Bamba, optimizer: AdamW, compute: Compute, world: World, sources: int) -> None:
        self.model, self.optimizer = model, optimizer
        self.compute, self.world, self.sources = compute, world, sources
        self.gradients = GradientSync(model, compute, world, low_memory=bool(optimizer.salts))

    def __call__(
        self,
        batch: Batch,
        lr: float,
        *,
        stop: bool = False,
        save: bool = False,
        before_update: Callable[[], None] = lambda: None,
    ) -> PendingStepMetrics:
        """Learn from a rank's rows of a step. `stop` and `save` are what this process asks of all: see `StepMetrics`.
        `before_update` is called when the gradient is there and the weights are still the old ones; what it makes this
        rank's device wait for is over before any rank changes them."""
        device = self.world.device
        targets = torch.tensor(float(batch.targets), dtype=torch.float64).to(device, non_blocking=True)
        if self.world.size > 1:
            dist.all_reduce(targets)
        # The mean over the global batch: a rank's loss is its part of it, and gradients are summed, not averaged.
        scale = (1.0 / targets.clamp(min=1.0)).float()
        by_source = SourceSums(self.sources, device)
        parts = batch.micro(self.compute.micro_rows)
        for number, part in enumerate(parts, 1):
            on = part.to(device)
            self.gradients.before_backward(last=number == len(parts))
            total, losses = self.model.losses(on.input_ids, on.documents, on.positions, on.labels, scale)
            backward(total)
            by_source.add(on, losses)
        norms = self.gradients.finish()
        before_update()  # before all ranks meet in the norm: after it, one may write its rows into another's weights
        norm = self.optimizer.gradient_norm(norms)
        wishes = [torch.full((1,), float(wish), dtype=torch.float64, device=device) for wish in (stop, save)]
        reduced = torch.cat([*by_source.vectors(), *wishes])  # one message for all that ranks tell each other
        if self.world.size > 1:
            dist.all_reduce(reduced)
        healthy = torch.isfinite(norm) & torch.isfinite(reduced).all()
        self.optimizer.update(lr, norm, healthy, self.gradients.updated)
        self.gradients.weights_sent()
        own = torch.stack([norm.double(), healthy.double()])
        return PendingStepMetrics(torch.cat([own, reduced[-2:], reduced[:-2]]))
