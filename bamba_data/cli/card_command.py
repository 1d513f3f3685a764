"""The command on what a dataset's folder says to people and other tools: card."""

from typing import Annotated

import typer

from bamba_data.terminal import emit

from .dataset_commands import LOOK
from .entry import group
from .options import Url, Version

app = group()


@app.command(rich_help_panel=LOOK)
def card(
    url: Url,
    version: Version = None,
    croissant: Annotated[bool, typer.Option("--croissant", help="croissant.json instead of README.md.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put both into the dataset, for the newest version.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="The same, in the place of what somebody else wrote or edited, too.")
    ] = False,
) -> None:
    """Print the dataset card: README.md, by which `datasets.load_dataset` reads the folder. Publishing writes it."""
    from bamba_data.card import refresh
    from bamba_data.errors import UserError
    from bamba_data.format.dataset import open_dataset

    dataset = open_dataset(url, version)
    made = refresh.card_of(dataset)
    if not (write or replace):
        emit((made.croissant.decode() if croissant and made.croissant else made.readme).rstrip("\n"))
        return
    if version is not None or croissant or dataset.store.url != _place(url):
        raise UserError("--write and --replace put both files there, of the newest version: name neither one of them")
    if left_alone := refresh.refresh(dataset.store, replace):
        said = refresh.NOT_OURS.format(url=dataset.store.url)
        raise UserError("; ".join(f"{dataset.store.url}/{name} {said}" for name in left_alone))


def _place(url: str) -> str:
    from bamba_data.storage.store import open_store

    return open_store(url).url
