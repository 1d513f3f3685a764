"""Save while training goes on; load on any number of ranks; fall back, loudly, where the newest checkpoint is torn.

A save copies the state to the host's memory while the next step is computed, and a thread writes it from there. The
copy is over before weights change again (`staged`); the next save waits for the last one to be committed.
"""

import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from bamba_data.errors import BambaError, CorruptCheckpoint
from bamba_data.store import Store
from trainer.checkpoint import commits
from trainer.checkpoint.staging import Staging
from trainer.checkpoint.storage import Reader, Writer, cause, read_index
from trainer.parallel import World
from trainer.recipe import Checkpoints

Say = Callable[[str], None]


class Checkpointer:
    """The checkpoints of one run, in `store`. Every rank holds one and calls the same verbs in the same order."""

    def __init__(self, store: Store, rule: Checkpoints, world: World, say: Say) -> None:
        self.store, self.rule, self.world, self.say = store, rule, world, say
        self._group = dist.new_group(backend="gloo")  # the thread that writes must not meet the training's collectives
        self._staging = Staging(world)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def prepare(self, state: dict[str, Tensor]) -> None:
        """Take the host's memory for the copies of `state`."""
        self._staging.prepare(state)

    def save(self, step: int, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Begin to save `state` as it is now; `about` is committed with it."""
        self.finish()
        name = self._agreed(commits.folder_name(step, secrets.token_hex(3)))
        writer = Writer(self.store, name, {"step": step, "world_size": self.world.size, **about})
        self._writing = self._thread.submit(self._write, self._staging.copy(state), writer)

    def _write(self, copied: dict[str, Tensor], writer: Writer) -> None:
        self._staging.settle()
        state_dict_saver.save(copied, storage_writer=writer, process_group=self._group)

    def staged(self) -> None:
        """The state is about to change: the copy comes first."""
        self._staging.wait()

    def finish(self) -> None:
        """Wait until the save under way is committed, then remove what is not to be kept."""
        if self._writing is None:
            return
        try:
            self._writing.result()
        except CheckpointException as error:
            raise cause(error) or error from error
        finally:
            self._writing = None
        if self.world.leads:
            commits.sweep(self.store, self.rule.keep_last, self.rule.keep_every_steps)

    def close(self) -> None:
        try:
            self.finish()
        finally:
            self._thread.shutdown()

    def restore(self, state: dict[str, Tensor], accept: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole into `state`; return its commit, None where there never was one.

        `accept` may refuse a commit by raising: a checkpoint of another run is no reason to take an older one. If
        none of them is whole that is an error: a run never starts over by itself.
        """
        found = [folder.name for folder in commits.folders(self.store) if folder.committed and not folder.torn]
        names: list[str] = self._agreed(found)
        for name in names:
            try:
                return load(self.store, name, state, accept)
            except CorruptCheckpoint as error:
                self.say(f"CHECKPOINT TORN: {error}; going back to the one before it")
                if self.world.leads:
                    commits.mark_torn(self.store, name, str(error))
        if names:
            raise CorruptCheckpoint(
                self.store.url,
                f"none of its {len(names)} checkpoints is whole; restore one, or start a new run in another folder",
            )
        return None

    def newest_before(self, step: int) -> str | None:
        """The newest whole checkpoint of an earlier step."""
        found = commits.folders(self.store)
        names = [folder.name for folder in found if folder.committed and not folder.torn and folder.step < step]
        return self._agreed(names[0] if names else None)  # type: ignore[no-any-return]

    def abandon_from(self, step: int, why: str) -> None:
        """Mark all checkpoints of this step and later ones, so that nobody goes on from them."""
        if self.world.leads:
            for folder in commits.folders(self.store):
                if folder.committed and folder.step >= step:
                    commits.mark_torn(self.store, folder.name, why)
        dist.barrier(group=self._group)

    def _agreed(self, value: Any) -> Any:
        """What rank 0 says."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


def load(
    store: Store, name: str, state: dict[str, Tensor], accept: Callable[[dict[str, Any]], None] = lambda commit: None
) -> dict[str, Any]:
    """Load the checkpoint `name` into the tensors of `state`, which may be fewer than were saved; return its commit.

    All ranks come to the same end: if a piece is torn for one, it is for all.
    """
    failed: BambaError | None = None
    commit: dict[str, Any] = {}
    index: dict[str, Any] = {}
    try:
        commit = commits.read_commit(store, name)
        index = read_index(store, name, commit["index"])
    except CorruptCheckpoint as error:
        failed = error
    answers: list[BambaError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, failed)
    for answer in answers:
        if answer is not None:
            raise answer
    accept(commit)
    for key, tensor in state.items():
        if key not in index:
            raise CorruptCheckpoint(f"{store.url}/{name}", f"it holds no {key}")
        if index[key]["shape"] != list(tensor.shape):
            raise CorruptCheckpoint(
                f"{store.url}/{name}",
                f"{key} has the shape {index[key]['shape']}, this model wants {list(tensor.shape)}",
            )
    try:
        state_dict_loader.load(state, storage_reader=Reader(store, name, index))
    except CheckpointException as error:
        raise cause(error) or error from error
    return commit
