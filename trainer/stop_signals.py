"""SIGTERM and Ctrl-C end a run after the step that it is in, with everything saved.

A scheduler sends SIGTERM and kills after its grace time; a launcher passes Ctrl-C on to all ranks. Which rank heard it
first does not matter: the wish is reduced over the ranks with the next step's numbers (`StepMetrics.stop`).
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bamba_data.errors import Interrupted

#: A second Ctrl-C after so long does not wait for a save; sooner it may be the launcher's copy of the first.
INSIST_SECONDS = 3.0


class StopRequest:
    """`asked` is true once this process was told to stop. Raises KeyboardInterrupt for a Ctrl-C that insists."""

    def __init__(self) -> None:
        self.asked = False
        self._asked_at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._asked_at > INSIST_SECONDS:
            raise KeyboardInterrupt


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """The handler before the first step, when there is nothing to save."""
    raise Interrupted("stopped before the first step; the same command begins anew")


@contextmanager
def stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Meanwhile SIGTERM and Ctrl-C go to `handler`."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
