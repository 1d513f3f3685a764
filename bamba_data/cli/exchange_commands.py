"""The commands that hand a dataset on: export, push."""

from typing import Annotated

import typer

from bamba_data.terminal import console, print_json, progress_bar

from .entry import group
from .options import AsJson, Url, Version

app = group()
HAND_ON = "Hand a dataset on"


@app.command(rich_help_panel=HAND_ON)
def export(
    url: Url,
    form: Annotated[str, typer.Option("--to", metavar="FORM", help="megatron, arrow, jsonl, mds, litdata, nanoset.")],
    out: Annotated[str, typer.Option("--out", metavar="FOLDER", help="A folder of this machine.")],
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="NAME", help="Only this one; may be given several times.")
    ] = None,
    delimiters: Annotated[
        str | None,
        typer.Option(help="Around every document: eos, bos, both, none. Arrow and jsonl alone have a default."),
    ] = None,
    bos_id: Annotated[int | None, typer.Option(help="The id of bos, where the tokenizer does not say it.")] = None,
    eos_id: Annotated[int | None, typer.Option(help="The id of eos, where the tokenizer does not say it.")] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset in the files of another trainer. The same command again goes on after a kill."""
    from bamba_data.exchange.export import export as write
    from bamba_data.format.dataset import open_dataset

    dataset = open_dataset(url, version)
    with progress_bar("export", not as_json) as tick:
        exported = write(dataset, form, out, source or (), delimiters, bos_id, eos_id, tick)
    if as_json:
        print_json(exported)
        return
    for one in exported:
        console().print(
            f"{one.source}: {one.documents:,} documents, {one.tokens:,} ids"
            f"{' (was there already)' if one.was_there else ''}: {', '.join(one.results)}",
            markup=False,
        )


@app.command(rich_help_panel=HAND_ON)
def push(
    url: Url,
    to: Annotated[str, typer.Argument(metavar="HUB", help="hf://datasets/ORG/NAME.")],
    version: Version = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a version of a dataset on a hub, with its card, tagged v<number>. The same command again goes on."""
    from bamba_data.exchange.hub_push import push as send
    from bamba_data.exchange.hub_repo import HubRepo
    from bamba_data.format.dataset import open_dataset
    from bamba_data.terminal import say

    repo = HubRepo.at(to, "dataset")
    pushed = send(open_dataset(url, version), repo, private, say)
    if as_json:
        print_json(pushed)
        return
    console().print(
        f"{pushed.url} has version {pushed.version} at {pushed.commit[:12]}, tagged {', '.join(pushed.tags)}: "
        f"{pushed.files:,} files of {pushed.size_bytes:,} bytes sent, {pushed.files_there:,} were there",
        markup=False,
    )
    if pushed.readme_left_alone:
        say("its README.md is not ours: it was left as it is")
