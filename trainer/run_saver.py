"""When a run's saves fail: everybody is told once, training goes on, and the end waits for a save that holds."""

import logging
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .checkpoint.manager import Checkpointer, FailedSave
from .observe.metrics import Metrics

#: Between the tries of a last save, which a run ends with; whatever stops a run kills it soon after.
LAST_TRIES_SECONDS = (2.0, 10.0)

#: The step, its tensors by name, and all else that is committed with them.
Snapshot = Callable[[], tuple[int, dict[str, Tensor], dict[str, Any]]]


class RunSaver:
    """Saves what `snapshot` gives, and tells of failures in the log and the metrics."""

    def __init__(self, checkpointer: Checkpointer, snapshot: Snapshot, metrics: Metrics, log: logging.Logger) -> None:
        self.checkpointer, self.snapshot, self.metrics, self.log = checkpointer, snapshot, metrics, log
        self._reported: FailedSave | None = None

    def save(self) -> None:
        """Begin to save the run as it is now."""
        self.checkpointer.save(*self.snapshot())
        self.report()

    def report(self) -> None:
        """Once when a save has failed, and once when one ends well after that."""
        failed, saved = self.checkpointer.failed, self.checkpointer.saved_step
        if failed is self._reported:
            return
        self._reported = failed
        if failed is None:
            self.log.info(f"SAVED AGAIN: after step {saved}")
            self.metrics.event({"event": "saved again", "step": saved})
            return
        self.log.error(
            f"SAVE FAILED after step {failed.step}: {failed.error}. Training goes on and will try again; the newest "
            f"checkpoint is of step {saved}"
        )
        event = {"event": "save failed", "step": failed.step, "why": str(failed.error), "saved_step": saved}
        self.metrics.event(event)

    def finish(self) -> None:
        """Wait for the last save; where it fails, try a few times more.

        Raises:
            BambaError | OSError: The reason of the last failure, when none of the tries ended well.
        """
        for pause_seconds in (*LAST_TRIES_SECONDS, None):
            failed = self.checkpointer.finish()
            self.report()
            if failed is None:
                return
            if pause_seconds is None:
                saved = self.checkpointer.saved_step
                self.log.error(f"NOT SAVED: the steps after {saved} are lost, the newest checkpoint is of step {saved}")
                raise failed.error
            time.sleep(pause_seconds)
            self.save()
