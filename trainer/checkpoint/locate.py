"""Which checkpoint a URL means: a run's folder (its newest whole one), RUN@STEP, or one checkpoint's own folder."""

import re

from bamba_data.errors import UserError
from bamba_data.storage.store import Store, open_store

from .commits import folders
from .dcp_storage import COMMIT


def locate_checkpoint(url: str) -> tuple[Store, str]:
    """The store and the name in it of the checkpoint at `url`: `<run>`, `<run>/checkpoints`, either of them with
    `@<step>`, or `<run>/checkpoints/step-…`."""
    trimmed = url.rstrip("/")
    parent, _, name = trimmed.rpartition("/")
    if name.startswith("step-"):
        store = open_store(parent)
        if store.stat(f"{name}/{COMMIT}") is None:
            raise UserError(f"{url}: no committed checkpoint there")
        return store, name
    if found := _newest(trimmed):
        return found
    if stepped := re.fullmatch(r"(.+)@(\d+)", trimmed):
        return _of_step(stepped[1], int(stepped[2]))
    raise UserError(f"{url}: neither a run with a committed checkpoint nor a checkpoint")


def _newest(run: str) -> tuple[Store, str] | None:
    for place in (f"{run}/checkpoints", run):
        store = open_store(place)
        whole = [folder for folder in folders(store) if folder.whole]
        if whole:
            return store, whole[0].name
    return None


def _of_step(run: str, step: int) -> tuple[Store, str]:
    """The checkpoint of the run after this step; `UserError` says which steps there are."""
    found = _newest(run)
    if found is None:
        raise UserError(f"{run}: neither a run with a committed checkpoint nor a checkpoint")
    store = found[0]
    whole = [folder for folder in folders(store) if folder.whole]
    names = [folder.name for folder in whole if folder.step == step]
    if len(names) > 1:
        raise UserError(f"{run} has {len(names)} checkpoints of step {step}: name one, {store.url}/{names[0]}")
    if not names:
        steps = sorted({folder.step for folder in whole})
        known = ", ".join(map(str, steps if len(steps) < 9 else [*steps[:3], "…", *steps[-3:]]))
        raise UserError(f"{run} has no checkpoint of step {step}: it has {known}")
    return store, names[0]
