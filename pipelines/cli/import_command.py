"""`bamba-data import`: token files of another trainer become a published dataset."""

from pathlib import Path
from typing import Annotated

import typer

from bamba_data.cli.entry import group
from bamba_data.cli.exchange_commands import HAND_ON
from bamba_data.cli.options import AsJson, Place

app = group()


@app.command("import", rich_help_panel=HAND_ON)
def import_tokens(
    url: Place,
    prefixes: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PREFIX...",
            help="Files without .bin and .idx, or without .ds, or a folder of .ds files; each becomes the source NAME.",
        ),
    ],
    form: Annotated[str, typer.Option("--from", metavar="FORM", help="megatron; datatrove or nanoset.")],
    tokenizer: Annotated[Path, typer.Option(metavar="FILE", help="The tokenizer.json that made the ids.")],
    delimiters: Annotated[
        str, typer.Option(help="Around every document in the files, to be taken away: eos, bos, both, none.")
    ],
    bos_id: Annotated[int | None, typer.Option(help="The id of bos, where the tokenizer does not say it.")] = None,
    eos_id: Annotated[int | None, typer.Option(help="The id of eos, where the tokenizer does not say it.")] = None,
    name: Annotated[str, typer.Option(help="Of the dataset.")] = "imported",
    license_: Annotated[str, typer.Option("--license", help="Of all sources.")] = "unstated",
    attribution: Annotated[str, typer.Option(help="Of all sources.")] = "unstated",
    as_json: AsJson = False,
) -> None:
    """Publish a dataset of token files, Megatron's .bin and .idx or datatrove's .ds, with their tokenizer."""
    from bamba_data.storage.store import open_store
    from bamba_data.terminal import console, print_json, progress_bar

    from ..dataset_build.token_import import import_tokens as bring
    from ..dataset_build.token_import import token_import

    wanted = token_import(form, prefixes, tokenizer, delimiters, bos_id, eos_id, name, license_, attribution)
    with progress_bar("import", not as_json) as tick:
        version, manifest = bring(wanted, open_store(url), tick)
    if as_json:
        print_json({"version": version, "identity": manifest.identity, "totals": manifest.totals.model_dump()})
    else:
        console().print(
            f"version {version.number} ({version.manifest[:16]}): {manifest.totals.kept:,} documents, "
            f"{manifest.totals.tokens:,} tokens in {len(manifest.sources)} sources",
            markup=False,
        )
