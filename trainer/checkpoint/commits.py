"""Which checkpoints a run's folder holds. One counts when its `commit.json` stands and nobody found it torn.

    step-000000400-3fa9c1/   rank-00000.bin … index.json commit.json
    step-000000400-77d102/   rank-00000.bin                            a save that was killed: nobody reads it

Every try to save has a folder of its own, so a save never writes over another. What was found torn, or was abandoned
when a run went back, is marked with `torn.json` and left in place for whoever wants to know why.
"""

import re
from dataclasses import dataclass
from typing import Any

from bamba_data.canonical import digest, dumps, loads
from bamba_data.errors import CorruptCheckpoint, CorruptManifest
from bamba_data.store import Store
from trainer.checkpoint.storage import COMMIT

TORN = "torn.json"
MAX_COMMIT_BYTES = 1 << 24
_FOLDER = re.compile(r"^step-(\d{9,})-[0-9a-f]+$")


@dataclass(frozen=True, slots=True)
class Folder:
    """A try to save the state after `step`."""

    name: str
    step: int
    committed: bool
    torn: bool
    files: tuple[str, ...]


def folder_name(step: int, attempt: str) -> str:
    return f"step-{step:09d}-{attempt}"


def folders(store: Store) -> list[Folder]:
    """All of them, the newest step first."""
    files: dict[str, list[str]] = {}
    for entry in store.list():
        name, slash, file = entry.path.partition("/")
        if slash and _FOLDER.match(name):
            files.setdefault(name, []).append(file)
    found = []
    for name, held in files.items():
        matched = _FOLDER.match(name)
        assert matched
        found.append(Folder(name, int(matched[1]), COMMIT in held, TORN in held, tuple(sorted(held))))
    return sorted(found, key=lambda folder: (folder.step, folder.name), reverse=True)


def read_commit(store: Store, name: str) -> dict[str, Any]:
    """What was committed with the checkpoint; `CorruptCheckpoint` if that cannot be read."""
    where = f"{store.url}/{name}/{COMMIT}"
    try:
        commit = loads(store.read(f"{name}/{COMMIT}"), where, MAX_COMMIT_BYTES)
    except FileNotFoundError:
        raise CorruptCheckpoint(f"{store.url}/{name}", "there is no committed checkpoint here") from None
    except CorruptManifest as error:
        raise CorruptCheckpoint(where, str(error)) from None
    if not isinstance(commit, dict) or commit.get("format") != 1 or not isinstance(commit.get("index"), str):
        raise CorruptCheckpoint(where, "it is no commit of a format that is known here")
    if commit.pop("digest", None) != digest(commit):
        raise CorruptCheckpoint(where, "it is not what was committed")
    return commit


def mark_torn(store: Store, name: str, why: str) -> None:
    store.put(f"{name}/{TORN}", dumps({"why": why}))


def sweep(store: Store, keep_last: int, keep_every_steps: int | None) -> list[str]:
    """Remove what is not to be kept, the commit first, so that no reader meets half of one; return the names.

    Folders without a commit, and torn ones, go when they are older than all that is kept.
    """
    every = folders(store)
    whole = [folder for folder in every if folder.committed and not folder.torn]
    kept = {folder.name for folder in whole[:keep_last]}
    if keep_every_steps:
        kept |= {folder.name for folder in whole if folder.step % keep_every_steps == 0}
    oldest = min((folder.step for folder in whole[:keep_last]), default=0)
    removed = []
    for folder in every:
        unfinished = not folder.committed or folder.torn
        if folder.name in kept or (unfinished and folder.step >= oldest):
            continue
        for file in sorted(folder.files, key=lambda file: file != COMMIT):
            store.delete(f"{folder.name}/{file}")
        removed.append(folder.name)
    return removed
