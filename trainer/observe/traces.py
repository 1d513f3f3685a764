"""Records of single steps that a recipe asks for: the profiler's trace, and the memory's. A failure costs a line."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..config import Log
from ..distributed.fsdp import World
from .memory_snapshot import MemorySnapshot
from .profiler import StepProfiler


class Traces:
    """Call `before` with the number of each step, and `end` with the run.

    Raises:
        UserError: A record is asked for that this device or this run cannot give.
    """

    def __init__(self, config: Log, world: World, folder: Path | None, log: logging.Logger) -> None:
        self.log = log
        self._recorders: dict[str, StepProfiler | MemorySnapshot] = {
            "a trace for Perfetto": StepProfiler(config, world, folder),
            "a record of the GPU's memory, for pytorch.org/memory_viz": MemorySnapshot(config, world, folder),
        }

    def before(self, step: int) -> None:
        """Begin or end records where it is due."""
        for name, recorder in self._recorders.items():
            self._attempt(name, partial(recorder.before, step))

    def end(self) -> None:
        """End what is under way."""
        for name, recorder in self._recorders.items():
            self._attempt(name, recorder.end)

    def _attempt(self, name: str, action: Callable[[], Path | None]) -> None:
        try:
            if file := action():
                self.log.info(f"{name}: {file}")
        except (OSError, RuntimeError) as error:  # a full disk: nothing that training needs
            self.log.warning(f"not written: {name} ({error})")
