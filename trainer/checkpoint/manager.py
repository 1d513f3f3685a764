"""Save while training goes on, and try again where that fails.

A save copies the state to the host's memory while the next step is computed, and a thread writes it from there. The
copy is over before weights change again (`staged`); the next save waits for the last one to end. A save that fails
takes nothing with it: its half is removed, `failed` says why, and `due_again` when to try with the state of then.
"""

import contextlib
import logging
import secrets
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from bamba_data.errors import BambaError, RunHeld
from bamba_data.storage.store import Store

from ..config import Checkpoints
from ..distributed.consistency import from_rank_zero
from ..distributed.fsdp import World
from . import commits, free_space
from .dcp_storage import CheckpointWriter, cause
from .host_staging import HostStaging
from .lease import Lease
from .restore import Accept, Restorer

#: Before a failed save is tried again:
RETRY_SECONDS = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)  # after the first failure on end, the second, …


@dataclass(frozen=True, slots=True)
class FailedSave:
    """Of the state after `step`. `had_room` says that a lack of room, as far as it can be seen, is not the cause."""

    step: int
    error: BambaError | OSError
    had_room: bool


@dataclass(frozen=True, slots=True)
class _Writing:
    step: int
    folder: str
    ended: "Future[None]"


class Checkpointer:
    """The checkpoints of one run, in `store`. Every rank holds one and calls the same verbs in the same order, except
    where a verb says that it is for one rank alone."""

    def __init__(self, store: Store, config: Checkpoints, world: World, log: logging.Logger) -> None:
        self.store, self.config, self.world, self.log = store, config, world, log
        self.saved_step = 0  # of the newest checkpoint that was committed or gone on from
        self.failed: FailedSave | None = None  # the last save, unless it ended well
        self.lease = Lease(store, log)
        self._group = dist.new_group(backend="gloo")  # the thread that writes must not meet the training's collectives
        self._restorer = Restorer(store, world, self._group, log)
        self._staging = HostStaging(world)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._memory: Future[None] | None = None
        self._writing: _Writing | None = None
        self._bytes = 0  # of a checkpoint, all ranks together
        self._failures = 0  # on end
        self._retry_at = 0.0

    # ---- begin and end

    def take(self) -> None:
        """Keep other runs out of this folder until `close`; `RunHeld` on all ranks if one is at work here."""
        failed: BambaError | OSError | None = None
        if self.world.leads:
            try:
                self.lease.take()
            except OSError as error:
                failed = free_space.as_no_room(error, self.store, 0)
            except BambaError as error:
                failed = error
        if refused := from_rank_zero(failed, self._group):
            raise refused

    def prepare(self, state: dict[str, Tensor]) -> None:
        """Begin to take the host's memory for the copies of `state`, beside whatever comes until `ready`."""
        self._bytes = free_space.bytes_of(state)
        self._staging.make_meshes(state)
        self._memory = self._thread.submit(self._staging.take_memory, state)

    def ready(self) -> None:
        """Wait for that memory; an error if the host has not so much."""
        if self._memory is not None:
            self._memory.result()

    def check_room(self) -> None:
        """`NoRoom` if the next save cannot but fail; what killed saves left was removed before."""
        error = free_space.no_room(self.store, self._bytes) if self.world.leads else None
        if error := from_rank_zero(error, self._group):
            raise error

    def close(self) -> None:
        """Wait for the save under way, let others into the folder."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()
            self.lease.release()

    # ---- save

    def save(self, step: int, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Begin to save `state` as it is now; `about` is committed with it."""
        self.finish()
        plan: str | BambaError = ""
        if self.world.leads:
            plan = free_space.no_room(self.store, self._bytes) or commits.folder_name(step, secrets.token_hex(3))
        plan = from_rank_zero(plan, self._group)
        if isinstance(plan, BambaError):
            self._fail(step, plan)
            return
        about = {"step": step, "world_size": self.world.size, **about}
        writer = CheckpointWriter(self.store, plan, about, before_commit=self.lease.check)
        ended = self._thread.submit(self._write, self._staging.copy(state), writer)
        self._writing = _Writing(step, plan, ended)

    def _write(self, copied: dict[str, Tensor], writer: CheckpointWriter) -> None:
        """In the thread."""
        self._staging.settle()
        state_dict_saver.save(copied, storage_writer=writer, process_group=self._group)
        if self.world.leads:
            self._sweep()

    def _sweep(self) -> None:
        self.lease.check()
        try:
            commits.sweep(self.store, self.config.keep_last, self.config.keep_every_steps)
        except (BambaError, OSError) as error:
            self.log.warning(f"OLD CHECKPOINTS STAY: {error}; the next save tries again to remove them")

    def staged(self) -> None:
        """The state is about to change: the copy comes first."""
        self._staging.wait()

    def finish(self) -> FailedSave | None:
        """Wait until the save under way has ended; whether the last one failed, the same on all ranks."""
        writing, self._writing = self._writing, None
        if writing is None:
            return self.failed
        try:
            writing.ended.result()
        except CheckpointException as error:
            why = cause(error)
            # A run that lost its folder must end; anything else that a store or a disk says may pass.
            if why is None or isinstance(why, RunHeld):
                raise (why or error) from error
            if self.world.leads:
                self._remove(writing.folder)
            self._fail(writing.step, free_space.as_no_room(why, self.store, self._bytes))
        else:
            self.saved_step, self.failed, self._failures = writing.step, None, 0
        return self.failed

    def poll(self) -> None:
        """As `finish` if the save under way has ended, for one rank alone; the others learn of it at the next verb."""
        if self._writing is not None and self._writing.ended.done():
            self.finish()

    def due_again(self) -> bool:
        """Whether it is time to try a failed save again; for one rank alone, which tells the others."""
        if self.failed is None or self._writing is not None:
            return False
        if not self.failed.had_room:
            return free_space.no_room(self.store, self._bytes) is None
        return time.monotonic() >= self._retry_at

    def _fail(self, step: int, error: BambaError | OSError) -> None:
        had_room = free_space.no_room(self.store, self._bytes) is None
        self.failed = FailedSave(step, error, had_room)
        self._retry_at = time.monotonic() + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1

    def _remove(self, name: str) -> None:
        """The half of a save that failed: its room may be all that the next one needs."""
        with contextlib.suppress(BambaError, OSError):  # a store that is away: the next begin removes it
            for folder in commits.folders(self.store):
                if folder.name == name and not folder.committed:
                    commits.remove(self.store, folder)

    # ---- load

    def restore(self, state: dict[str, Tensor], accept: Accept) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole into `state`: see `Restorer.restore`."""
        return self._gone_on_from(self._restorer.restore(state, accept))

    def go_back_before(self, step: int, why: str, state: dict[str, Tensor]) -> dict[str, Any] | None:
        """Load the newest whole checkpoint of an earlier step: see `Restorer.go_back_before`."""
        self.finish()
        return self._gone_on_from(self._restorer.go_back_before(step, why, state))

    def _gone_on_from(self, commit: dict[str, Any] | None) -> dict[str, Any] | None:
        if commit is not None:
            self.saved_step = commit["step"]
        return commit
