"""What is wrong with a checkpoint: all of its bytes are read and held against their digests."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import Store

from .commits import CheckpointFolder, folders, read_checkpoint
from .marks import Mark, read_mark
from .pieces import PieceLocation, fill, in_threads


@dataclass(frozen=True, slots=True)
class CheckpointStatus:
    """How a checkpoint stands. `faults` are those that reading it showed: None if it was not read, empty if whole."""

    folder: CheckpointFolder
    mark: Mark | None
    faults: list[str] | None

    @property
    def state(self) -> str:
        if self.folder.unfinished:
            return "unfinished: a save that was killed, or is under way"
        parts = [f"{self.mark.kind}: {self.mark.why}"] if self.mark else []
        if self.faults is not None:
            parts += [f"READ DAMAGED: {'; '.join(self.faults)}" if self.faults else "read whole"]
        return "; ".join(parts) or "committed"


def statuses(store: Store, *, read: bool) -> Iterator[CheckpointStatus]:
    """Of all checkpoints of a run, the newest first; with `read` every byte of the committed ones is checked."""
    for folder in folders(store):
        mark = read_mark(store, folder.name) if folder.marked else None
        look = read and not folder.unfinished
        yield CheckpointStatus(folder, mark, list(faults(store, folder.name)) if look else None)


def faults(store: Store, name: str) -> Iterator[str]:
    """In words; none if the checkpoint is whole."""
    try:
        _, index = read_checkpoint(store, name)
    except CorruptCheckpoint as error:
        yield str(error)
        return
    places = [PieceLocation(*place) for entry in index.values() for _, _, *place in entry["pieces"]]
    found = in_threads([partial(_fault, store, name, place) for place in places], [place.length for place in places])
    yield from filter(None, found)


def _fault(store: Store, name: str, place: PieceLocation) -> str | None:
    try:
        fill(store, name, place)
    except CorruptCheckpoint as error:
        return str(error)
    return None


def named(store: Store, name: str) -> CheckpointFolder:
    """The checkpoint of that name; `UserError` if there is none."""
    for folder in folders(store):
        if folder.name == name:
            return folder
    raise UserError(f"{store.url} holds no {name}")
