"""What checkpoints a run has and how they stand (`bamba-data model checkpoints RUN`).

With `verify` every byte of them is read. The mark is taken from one that is whole, so that the run may go on from it.
"""

import json
import time
from typing import Any

from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import Store, open_store
from bamba_data.terminal import emit

from ..observe.messages import say
from .marks import lift, read_mark
from .verify import CheckpointStatus, faults, named, statuses


def print_checkpoints(run: str, *, verify: bool, lifted: str | None, as_json: bool) -> None:
    """A line on each checkpoint of a run, the newest first, after the mark of `lifted` was taken.

    Raises:
        UserError: there are none, or none of the name `lifted`.
        CorruptCheckpoint: `verify` read a damaged one, or `lifted` is damaged.
    """
    store = open_store(f"{run.rstrip('/')}/checkpoints")
    if lifted is not None:
        lift_mark(store, lifted.rstrip("/").rpartition("/")[2])
    damaged = total = 0
    for status in statuses(store, read=verify):
        total += 1
        damaged += bool(status.faults)
        emit(json.dumps(_fields(status)) if as_json else _line(status))
    if not total:
        raise UserError(f"{store.url}: there are no checkpoints here")
    if damaged:
        raise CorruptCheckpoint(store.url, f"{damaged} of {total} checkpoints are damaged")


def lift_mark(store: Store, name: str) -> None:
    """Take its mark from a checkpoint whose bytes are all what was saved; `CorruptCheckpoint` if they are not."""
    folder = named(store, name)
    mark = read_mark(store, name)
    if mark is None:
        raise UserError(f"{store.url}/{name} bears no mark")
    if not folder.committed:
        raise CorruptCheckpoint(f"{store.url}/{name}", "it has no commit: its mark stays")
    if found := list(faults(store, name)):
        raise CorruptCheckpoint(f"{store.url}/{name}", f"its mark stays, it is damaged: {'; '.join(found)}")
    lift(store, name)
    say(f"{name} is whole: its mark is lifted (it said: {mark.why})")


def _line(status: CheckpointStatus) -> str:
    folder = status.folder
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(folder.modified))
    return f"{folder.name}  step {folder.step:,}  {folder.size_bytes:,} bytes  {when} UTC  {status.state}"


def _fields(status: CheckpointStatus) -> dict[str, Any]:
    folder, mark = status.folder, status.mark
    return {
        "name": folder.name,
        "step": folder.step,
        "bytes": folder.size_bytes,
        "modified": folder.modified,
        "committed": folder.committed,
        "mark": None if mark is None else {"kind": mark.kind, "why": mark.why},
        "faults": status.faults,
    }
