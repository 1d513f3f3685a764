"""What lies in a GPU's memory during one step, and which line of code asked for it, for pytorch.org/memory_viz."""

from pathlib import Path

import torch

from bamba_data.errors import UserError

from ..config import Log
from ..distributed.fsdp import World

ENTRIES = 200_000  # of the history: of a step of Bamba-9B they are some ten thousand


class MemorySnapshot:
    """Call `before` with the number of each step; the history of the step that the recipe names ends in
    `memory-step-<n>.pickle` in `folder`. Only rank 0 keeps one, and nobody does where there is no folder.

    `UserError` where a snapshot is asked for and there is no GPU, or no folder to put it in.
    """

    def __init__(self, config: Log, world: World, folder: Path | None) -> None:
        self._step = config.memory_snapshot_step
        self._folder = folder
        self._leads = world.leads
        self._recording = False
        if self._step is None:
            return
        if world.device.type != "cuda":
            raise UserError("log.memory_snapshot_step: there is no GPU here with memory to record: leave it out")
        if folder is None and world.leads:
            raise UserError("log.memory_snapshot_step: no local folder for the file: name one with --metrics")

    def before(self, step: int) -> Path | None:
        """Begin or end the record where it is due; its file when it has ended."""
        if self._step is None or not self._leads:
            return None
        if self._recording:
            return self.end()
        if step == self._step:
            torch.cuda.memory._record_memory_history(max_entries=ENTRIES)
            self._recording = True
        return None

    def end(self) -> Path | None:
        """End the record if one is under way."""
        if not self._recording or self._folder is None:
            return None
        self._recording = False
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"memory-step-{self._step}.pickle"
        torch.cuda.synchronize()
        torch.cuda.memory._dump_snapshot(str(file))  # type: ignore[no-untyped-call]
        torch.cuda.memory._record_memory_history(enabled=None)
        return file
