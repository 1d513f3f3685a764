"""The commands that show a dataset to a person: page, serve; and report, which page took in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamba_data.cli.dataset_commands import LOOK
from bamba_data.cli.entry import group
from bamba_data.cli.old_names import Command, OldName
from bamba_data.cli.options import Url, Version, in_a_folder
from bamba_data.terminal import console, say

if TYPE_CHECKING:
    from bamba_data.format.dataset import Dataset
    from bamba_data.page.planned import PlannedMix
    from bamba_data.storage.store import Store

app = group()

Page = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help="Where the page goes.", callback=in_a_folder),
    OldName("--to"),
    OldName("-o"),
]
Samples = Annotated[int, typer.Option("--samples", min=0, help="Documents shown of each source.")]
Plan = Annotated[
    Path | None, typer.Option("--plan", help="A plan or a checkpoint's plan: the mix as it weighs the sources.")
]
Price = Annotated[float | None, typer.Option("--price-per-core-hour", min=0, help="Of the runs, for what they cost.")]
Currency = Annotated[str, typer.Option(help="Of that price.")]


@app.command(cls=Command, rich_help_panel=LOOK)
def page(
    url: Url,
    out: Page = Path("page.html"),
    version: Version = None,
    samples: Samples = 12,
    plan: Plan = None,
    price: Price = None,
    currency: Currency = "$",
) -> None:
    """One HTML file of a dataset: samples, lengths, mix, licences, ledger, versions, and how its runs went."""
    from bamba_data.page.file import page as made

    _, values = _values(url, version, samples, plan, price, currency)
    text = made(values)
    out.write_text(text, encoding="utf-8")
    for fault in _faults(values):
        say(f"not on the page: {fault}")
    console().print(f"written to {out} ({len(text.encode()):,} bytes)", markup=False)


@app.command(cls=Command, rich_help_panel=LOOK)
def serve(
    url: Url,
    version: Version = None,
    samples: Samples = 12,
    plan: Plan = None,
    price: Price = None,
    currency: Currency = "$",
    host: Annotated[str, typer.Option(help="The address of this machine to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """The same page from a server on this machine: every document, and a search through all texts. Ctrl-C ends it."""
    import contextlib

    from bamba_data.errors import UserError
    from bamba_data.page.browse import Browser
    from bamba_data.page.file import page as made
    from bamba_data.page.server import Server

    dataset, values = _values(url, version, samples, plan, price, currency, live=True)
    if dataset is None:
        raise UserError(f"{url}: only runs are on record here, and there is no document to look at: bamba-data page")
    for fault in _faults(values):
        say(f"not on the page: {fault}")
    # Ctrl-C is how it is meant to end.
    with contextlib.suppress(KeyboardInterrupt), Server(made(values), Browser(dataset), host, port) as server:
        console().print(server.url, markup=False, soft_wrap=True)
        say("whoever has this address can read the dataset; Ctrl-C ends it")
        server.serve_forever()


@app.command(cls=Command, hidden=True, rich_help_panel=LOOK)
def report(url: Url, out: Page = Path("report.html"), price: Price = None, currency: Currency = "$") -> None:
    """What `page` was called before it showed the data, too."""
    page(url, out, None, 12, None, price, currency)


def _values(
    url: str,
    version: str | None,
    samples: int,
    plan: Path | None,
    price: float | None,
    currency: str,
    live: bool = False,
) -> "tuple[Dataset | None, dict[str, Any]]":
    from bamba_data.errors import UserError
    from bamba_data.page.content import content

    from ..observe.run_costs import run_costs

    dataset, store = _dataset_or_runs(url, version)
    if plan and dataset is None:
        raise UserError(f"--plan weighs the sources of a dataset, and none is published at {url}: leave it out")
    planned = _planned(plan, dataset) if plan and dataset else None
    costs = run_costs(store, price, currency)
    return dataset, content(dataset, url=store.url, documents=samples, plan=planned, runs=costs, live=live)


def _dataset_or_runs(url: str, version: str | None) -> "tuple[Dataset | None, Store]":
    """What is published; or the place alone, where nothing is yet but runs are on record."""
    from bamba_data.errors import DatasetNotFound
    from bamba_data.format import version_marks
    from bamba_data.format.dataset import open_dataset
    from bamba_data.storage.store import open_store

    from ..observe import runs

    try:
        dataset = open_dataset(url, version)
        return dataset, dataset.store
    except DatasetNotFound:
        store = open_store(url)
        if version is not None or version_marks.known(store).numbers or not list(runs.attempts(store)):
            raise
        return None, store


def _planned(path: Path, dataset: "Dataset") -> "PlannedMix":
    from bamba.loader.planned_mix import planned_mix

    return planned_mix(path, dataset)


def _faults(values: dict[str, Any]) -> list[str]:
    """What could not be read, and is said on the page, too."""
    faults = [fault for of_source in values.get("samples", []) for fault in of_source["faults"]]
    faults += values.get("letters", {}).get("faults", [])
    return faults + [one["fault"] for one in values.get("lengths", {}).get("histograms", []) if one["fault"]]
