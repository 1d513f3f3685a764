"""Load on any number of ranks, and fall back, loudly, where the newest checkpoint is damaged.

A run never starts over by itself: checkpoints of which none is whole are an error, and one that is damaged is marked,
so that its bytes are not believed again.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException

from bamba_data.errors import BambaError, CorruptCheckpoint
from bamba_data.storage.store import Store

from ..distributed.consistency import from_rank_zero, gathered
from ..distributed.fsdp import World
from . import commits
from .compatibility import check_fits
from .dcp_storage import CheckpointReader, cause
from .marks import Mark, set_mark

#: Refuses a commit by raising: a checkpoint of another run is no reason to take an older one.
Accept = Callable[[dict[str, Any]], None]

EXAMINE = "`python -m trainer.checkpoints RUN` lists them with what is wrong, and lifts a mark from one that is whole"


class Restorer:
    """Finds the checkpoint that a run goes on from. Every rank calls the same verbs in the same order.

    Args:
        group: The ranks, by gloo: rank 0 alone looks into the store and tells the others.
    """

    def __init__(self, store: Store, world: World, group: Any, log: logging.Logger) -> None:
        self.store, self.world, self.group, self.log = store, world, group, log

    def restore(self, state: dict[str, Tensor], accept: Accept) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole into `state`; its commit, None where there never was one.

        Raises:
            CorruptCheckpoint: There are checkpoints and none of them is whole.
            OtherModel: The checkpoint holds other tensors than `state`.
        """
        every: list[commits.CheckpointFolder] = self._from_rank_zero(lambda: commits.folders(self.store))
        commit = self._newest_of([folder.name for folder in every if folder.whole], state, accept)
        if commit is None and (lost := [folder for folder in every if folder.committed or folder.marked]):
            raise CorruptCheckpoint(
                self.store.url,
                f"none of its {len(lost)} checkpoints is whole, and a run does not start over by itself. {EXAMINE}; "
                "restore one, or start a new run in another folder",
            )
        if self.world.leads:
            self._sweep_unfinished(begins_at_zero=commit is None)
        return commit

    def go_back_before(self, step: int, why: str, state: dict[str, Tensor]) -> dict[str, Any] | None:
        """Load the newest whole checkpoint of an earlier step and mark those from `step` on, so that nobody goes on
        from them; its commit, or None, with nothing changed, where there is none.

        Raises:
            CorruptCheckpoint: There are earlier ones and none of them is whole: `state` is what was read of them.
        """
        every: list[commits.CheckpointFolder] = self._from_rank_zero(lambda: commits.folders(self.store))
        earlier = [folder.name for folder in every if folder.whole and folder.step < step]
        commit = self._newest_of(earlier, state, lambda commit: None)
        if commit is None and earlier:
            raise CorruptCheckpoint(self.store.url, f"none of its {len(earlier)} checkpoints before {why} is whole")
        if commit is not None and self.world.leads:
            for folder in every:
                if folder.whole and folder.step >= step:
                    self._mark(folder.name, Mark("abandoned", why))
        dist.barrier(group=self.group)
        return commit

    def _newest_of(self, names: list[str], state: dict[str, Tensor], accept: Accept) -> dict[str, Any] | None:
        """The first of `names` that can be loaded; those before it are marked as damaged."""
        for name in names:
            try:
                return load(self.store, name, state, accept)
            except CorruptCheckpoint as error:
                self.log.warning(f"CHECKPOINT TORN: {error}; going back to the one before it")
                if self.world.leads:
                    self._mark(name, Mark("damaged", str(error)))
        return None

    def _mark(self, name: str, mark: Mark) -> None:
        try:
            set_mark(self.store, name, mark)
        except (BambaError, OSError) as error:  # on a full disk it is found damaged again next time
            self.log.warning(f"{name} could not be marked as {mark.kind}: {error}")

    def _sweep_unfinished(self, *, begins_at_zero: bool) -> None:
        try:
            killed = commits.sweep_unfinished(self.store, begins_at_zero=begins_at_zero)
        except (BambaError, OSError) as error:
            self.log.warning(f"saves that were killed could not be removed: {error}")
            return
        if killed:
            size_bytes = sum(folder.size_bytes for folder in killed)
            self.log.info(f"removed {len(killed)} saves that were killed, {size_bytes:,} bytes")

    def _from_rank_zero(self, look: Callable[[], Any]) -> Any:
        return from_rank_zero(look() if self.world.leads else None, self.group)


def load(store: Store, name: str, state: dict[str, Tensor], accept: Accept = lambda commit: None) -> dict[str, Any]:
    """Load the checkpoint `name` into the tensors of `state`; a collective call.

    All ranks come to the same end: if a piece is damaged for one, it is for all.

    Args:
        state: All tensors that were saved, or all of a kind: `model.` alone, without `optimizer.`.

    Returns:
        What was committed with it.

    Raises:
        CorruptCheckpoint: A byte is not what was saved.
        OtherModel: It is a whole checkpoint of other tensors.
    """
    failed: BambaError | None = None
    commit: dict[str, Any] = {}
    index: dict[str, Any] = {}
    try:
        commit, index = commits.read_checkpoint(store, name)
    except BambaError as error:
        failed = error
    for answer in gathered(failed):
        if answer is not None:
            raise answer
    accept(commit)
    check_fits(f"{store.url}/{name}", index, state)
    try:
        state_dict_loader.load(state, storage_reader=CheckpointReader(store, name, index))
    except CheckpointException as error:
        raise cause(error) or error from error
    return commit
