"""What a run does about steps that went wrong: counting those without a finite gradient, finding spikes of the loss.

Both look only at what all ranks know alike, so all ranks come to the same decision at the same step. What a run does
about a spike: `rewind`.
"""

import math
from collections import deque
from dataclasses import dataclass

from bamba_data.errors import TooManyBadSteps

from .config import Guard
from .step import StepMetrics


@dataclass(frozen=True, slots=True)
class StepRange:
    """Steps `first` to `last`, both included."""

    first: int
    last: int


class BadSteps:
    """Counts the updates that were left undone, over the whole run."""

    def __init__(self, config: Guard) -> None:
        self.config, self.count = config, 0

    def see(self, step: int, outcome: StepMetrics, rows: str) -> bool:
        """Whether this step was bad; `TooManyBadSteps`, naming its rows, when there were too many."""
        if outcome.healthy:
            return False
        self.count += 1
        if self.count > self.config.max_bad_steps:
            raise TooManyBadSteps(
                f"step {step}: loss {outcome.loss:g}, gradient norm {outcome.grad_norm:g}, on {rows}; that makes "
                f"{self.count} steps without a finite gradient, the recipe allows {self.config.max_bad_steps} "
                "(guard.max_bad_steps). Nothing of these steps is in the weights"
            )
        return True


class LossSpikes:
    """Tells when the loss left its recent range for several steps on end."""

    def __init__(self, config: Guard) -> None:
        self.config = config
        self._calm: deque[float] = deque(maxlen=config.spike_window)
        self._high = 0

    def see(self, step: int, loss: float) -> StepRange | None:
        """The steps of a spike, once it has lasted long enough. High losses do not enter the range they are held
        against, nor do those that are no number."""
        if self.config.spike_sigmas is None or not math.isfinite(loss):
            return None
        if len(self._calm) == self.config.spike_window and loss > self._bound(self.config.spike_sigmas):
            self._high += 1
            if self._high >= self.config.spike_steps:
                span = StepRange(step - self._high + 1, step)
                self.forget()
                return span
            return None
        self._high = 0
        self._calm.append(loss)
        return None

    def forget(self) -> None:
        """Begin anew: the run went back."""
        self._calm.clear()
        self._high = 0

    def _bound(self, sigmas: float) -> float:
        mean = sum(self._calm) / len(self._calm)
        variance = sum((loss - mean) ** 2 for loss in self._calm) / len(self._calm)
        return mean + sigmas * math.sqrt(variance)
