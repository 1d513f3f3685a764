"""Which checkpoints a run's folder holds. One counts when its `commit.json` stands and it bears no mark.

    step-000000400-3fa9c1/   rank-00000.bin … index.json commit.json
    step-000000400-77d102/   rank-00000.bin                            a save that was killed: nobody reads it

Every try to save has a folder of its own, so a save never writes over another. What was found damaged, or was abandoned
when a run went back, is marked (trainer/checkpoint/marks.py) and left in place for whoever wants to know why.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bamba_data.canonical_json import digest, loads
from bamba_data.errors import CorruptCheckpoint, CorruptManifest, UserError
from bamba_data.records import unseal
from bamba_data.storage.store import Store

from .dcp_storage import COMMIT, FORMAT, INDEX, read_index

MARK = "torn.json"
MAX_COMMIT_BYTES = 1 << 24
_FOLDER = re.compile(r"^step-(\d{9,})-[0-9a-f]+$")


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A try to save the state after `step`. `size_bytes` is of all files together, `modified` of the youngest."""

    name: str
    step: int
    files: tuple[str, ...]
    size_bytes: int
    modified: float

    @property
    def committed(self) -> bool:
        return COMMIT in self.files

    @property
    def marked(self) -> bool:
        return MARK in self.files

    @property
    def whole(self) -> bool:
        """As far as anybody knows: its bytes were not read for this."""
        return self.committed and not self.marked

    @property
    def unfinished(self) -> bool:
        """A save that was killed, or is under way."""
        return not self.committed and not self.marked


def folder_name(step: int, attempt: str) -> str:
    return f"step-{step:09d}-{attempt}"


def folders(store: Store) -> list[CheckpointFolder]:
    """All of them, the newest step first."""
    files: dict[str, list[tuple[str, int, float]]] = {}
    for entry in store.list():
        name, slash, file = entry.path.partition("/")
        if slash and _FOLDER.match(name):
            files.setdefault(name, []).append((file, entry.size_bytes, entry.modified))
    checkpoints = []
    for name, entries in files.items():
        matched = _FOLDER.match(name)
        assert matched
        names, sizes, times = zip(*sorted(entries), strict=True)
        checkpoints.append(CheckpointFolder(name, int(matched[1]), names, sum(sizes), max(times)))
    return sorted(checkpoints, key=lambda folder: (folder.step, folder.name), reverse=True)


def read_commit(store: Store, name: str) -> dict[str, Any]:
    """What was committed with the checkpoint; `CorruptCheckpoint` if that cannot be read, `UserError` if it is of a
    format that came later."""
    where = f"{store.url}/{name}/{COMMIT}"
    try:
        data = store.read(f"{name}/{COMMIT}")
    except FileNotFoundError:
        raise CorruptCheckpoint(f"{store.url}/{name}", "there is no committed checkpoint here") from None
    try:
        raw = loads(data, where, MAX_COMMIT_BYTES)
        if isinstance(raw, dict) and raw.get("format") == 1:
            return _read_first_format(raw, where)
        commit = unseal(data, where, MAX_COMMIT_BYTES)
    except CorruptManifest as error:
        raise CorruptCheckpoint(where, error.detail) from None
    if str(commit.get("format")).startswith("bamba-checkpoint/") and commit["format"] != FORMAT:
        raise UserError(
            f"{where} is of format {commit['format']}, which came after this version: use the one that saved it"
        )
    if commit.get("format") != FORMAT or not isinstance(commit.get("index"), str):
        raise CorruptCheckpoint(where, "it is no commit of a format that is known here")
    return commit


def read_checkpoint(store: Store, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what was committed, the index of its tensors); raises as `read_commit` and `read_index` do."""
    commit = read_commit(store, name)
    return commit, read_index(store, name, commit["index"])


def model_alone(commit: dict[str, Any]) -> str | None:
    """What kind of checkpoint holds a model and no state of a run, in words; None for one that a run saved."""
    if commit.get("imported"):
        return "an imported model"
    if commit.get("extended"):
        return "a model that was extended"
    return "an average of models" if commit.get("averaged") else None


def require_unused(store: Store, run: str, is_ours: Callable[[CheckpointFolder], bool], way_out: str) -> None:
    """`UserError` where a run's folder holds a checkpoint, or half of one that is not ours. Our own half, which a
    killed command left, is removed: only for who holds the run's lease."""
    present = folders(store)
    if used := [folder for folder in present if not (folder.unfinished and is_ours(folder))]:
        raise UserError(f"{run} is in use: it holds {used[0].name}. {way_out}, or remove this one yourself")
    for folder in present:
        remove(store, folder)


def _read_first_format(commit: dict[str, Any], where: str) -> dict[str, Any]:
    """As commits were until records had a seal."""
    if commit.pop("digest", None) != digest(commit) or not isinstance(commit.get("index"), str):
        raise CorruptCheckpoint(where, "it is not what was committed")
    return commit


def sweep(store: Store, keep_last: int, keep_every_steps: int | None) -> list[str]:
    """Remove what is not to be kept, the commit first, so that no reader meets half of one; return the names.

    Folders without a commit, and marked ones, go when they are older than all that is kept.
    """
    every = folders(store)
    whole = [folder for folder in every if folder.whole]
    kept = {folder.name for folder in whole[:keep_last]}
    if keep_every_steps:
        kept |= {folder.name for folder in whole if folder.step % keep_every_steps == 0}
    oldest = min((folder.step for folder in whole[:keep_last]), default=0)
    expired = [folder for folder in every if folder.name not in kept and (folder.whole or folder.step < oldest)]
    for folder in expired:
        remove(store, folder)
    return [folder.name for folder in expired]


def sweep_unfinished(store: Store, *, begins_at_zero: bool) -> list[CheckpointFolder]:
    """Remove what killed saves left; only for who holds the run's lease. Where a run begins at step 0, a folder that
    lacks nothing but its commit stays: it may be all that is left of a run."""
    killed = [
        folder for folder in folders(store) if folder.unfinished and not (begins_at_zero and INDEX in folder.files)
    ]
    for folder in killed:
        remove(store, folder)
    return killed


def remove(store: Store, folder: CheckpointFolder) -> None:
    """Its files, the commit first."""
    for file in sorted(folder.files, key=lambda file: file != COMMIT):
        store.delete(f"{folder.name}/{file}")
