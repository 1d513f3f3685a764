"""A trace of a few steps by torch's profiler, for Perfetto or chrome://tracing: what the host does, what the device."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ..config import Log
from ..distributed.fsdp import World


class StepProfiler:
    """Call `before` with the number of each step; the steps that the recipe names end in `profile-step-<n>.json` in
    `folder`. Only rank 0 traces, and nobody does where there is no folder."""

    def __init__(self, config: Log, world: World, folder: Path | None) -> None:
        self._first, self._steps = config.profile_from, config.profile_steps
        self._folder = folder if world.leads else None
        self._device = world.device
        self._running: profile | None = None

    def before(self, step: int) -> Path | None:
        """Begin or end the trace where it is due; its file when it has ended."""
        if self._first is None or self._folder is None:
            return None
        if step == self._first and self._running is None:  # a run that goes back comes by twice
            on_device = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
            self._running = profile(activities=[ProfilerActivity.CPU, *on_device])
            self._running.start()
        elif step == self._first + self._steps:
            return self.end()
        return None

    def end(self) -> Path | None:
        """End the trace if one is under way."""
        if self._running is None or self._folder is None:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._running.stop()
        file = self._folder / f"profile-step-{self._first}.json"
        self._running.export_chrome_trace(str(file))
        self._running = None
        return file
