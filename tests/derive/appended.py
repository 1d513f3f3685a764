"""Appends in this process, without Ray."""

from pathlib import Path

from bamba_data.format.fence import shared
from bamba_data.format.manifest import Manifest
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.appending import Appending, finish_append, prepare_append
from pipelines.dataset_build.driver import run_here


def append(url: Path, recipe: Path, *overrides: str) -> tuple[Appending, Manifest | None]:
    """What was planned, and what was published; None if there is nothing new."""
    loaded, folder = load_recipe(str(recipe), ["tokenizer.backend=tokenizers", *overrides])
    with shared(open_store(str(url))) as fence:
        appending = prepare_append(loaded, folder, str(url), Fetcher())
        if appending.prepared is None:
            return appending, None
        if faults := run_here(appending.prepared, Fetcher()):
            raise faults[0]
        return appending, finish_append(appending, fence)[1]
