"""Which checkpoint a URL means: a run's folder (its newest whole one) or one checkpoint's own folder."""

from bamba_data.errors import UserError
from bamba_data.storage.store import Store, open_store

from .commits import folders
from .dcp_storage import COMMIT


def locate_checkpoint(url: str) -> tuple[Store, str]:
    """The store and the name in it of the checkpoint at `url`: `<run>`, `<run>/checkpoints`, or
    `<run>/checkpoints/step-…`."""
    trimmed = url.rstrip("/")
    parent, _, name = trimmed.rpartition("/")
    if name.startswith("step-"):
        store = open_store(parent)
        if store.stat(f"{name}/{COMMIT}") is None:
            raise UserError(f"{url}: no committed checkpoint there")
        return store, name
    for place in (f"{trimmed}/checkpoints", trimmed):
        store = open_store(place)
        whole = [folder for folder in folders(store) if folder.whole]
        if whole:
            return store, whole[0].name
    raise UserError(f"{url}: neither a run with a committed checkpoint nor a checkpoint")
