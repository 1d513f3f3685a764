"""The commands that look at a dataset: show, stats, verify, diff, sweep.

They import what they need when they run, and neither ray nor torch, so that `show` answers in a blink.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from bamba_data.terminal import console, print_json, print_lines, progress_bar

from .entry import group
from .options import AsJson, Code, Place, Url, Version, in_a_folder

app = group()
LOOK = "Look at a dataset"
VERSIONS = "Versions of a dataset"


@app.command(rich_help_panel=LOOK)
def show(
    url: Url,
    as_json: AsJson = False,
    version: Version = None,
    shards: Annotated[bool, typer.Option("--shards", help="List every shard.")] = False,
) -> None:
    """Print a dataset as a tree: sources, shards, tokens, tokenizer, digests, licences."""
    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect.show import tree

    dataset = open_dataset(url, version)
    if as_json:
        fields = {"version": dataset.version, "digest": dataset.manifest.digest}
        fields["manifest"] = dataset.manifest.to_json()
        if shards:
            fields["shards"] = dataset.shards.to_dicts()
        print_json(fields)
    else:
        print_lines(console(), tree(dataset, shards))


@app.command(rich_help_panel=LOOK)
def stats(
    url: Url,
    as_json: AsJson = False,
    version: Version = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the lengths to this PNG, PDF or SVG.", callback=in_a_folder)
    ] = None,
) -> None:
    """Token counts and length quantiles of every source."""
    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect import stats as measuring
    from bamba_data.inspect.stats_tables import tables

    dataset = open_dataset(url, version)
    sources = measuring.stats(dataset)
    if plot:
        measuring.plot(dataset, plot)
    if as_json:
        print_json(sources)
        return
    for table in tables(sources):
        console().print(table, "")
    if plot:
        console().print(f"drawn to {plot}", markup=False)


@app.command(rich_help_panel=LOOK)
def verify(
    url: Url,
    as_json: AsJson = False,
    version: Version = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte: hashes, blocks, ids, a re-encoded sample.")
    ] = False,
    code: Code = None,
) -> None:
    """Check that a dataset is what its manifest says. Exit 5 if not, with every fault named."""
    from rich.markup import escape

    from bamba_data.inspect.verify import verify as check

    with progress_bar("verify", not as_json) as tick:
        report = check(url, version, full, tick, code)
    if as_json:
        print_json(report)
    else:
        for fault in report.faults:
            console().print(f"[red]fault[/] {escape(str(fault))}")
        depth = "every byte" if full else "manifest, tables, sizes and footers (--full reads every byte)"
        console().print(
            f"{'SOUND' if not report.faults else f'{len(report.faults)} FAULTS'}: dataset {report.dataset[:16]}…, "
            f"{report.shards:,} shards, {report.blocks:,} blocks, {report.documents:,} documents, "
            f"{report.tokens:,} tokens; checked {depth}"
            + (f"; {report.reencoded:,} documents encoded again" if full else "")
            + (f", {report.from_upstream:,} of them from their upstream text" if report.from_upstream else "")
            + (f"; {report.unlisted:,} objects of other versions, or of none" if report.unlisted else "")
        )
        for why, count in report.unproven.items():
            console().print(f"[yellow]not proven[/]: the ids of {count:,} sampled documents: {escape(why)}")
        if report.faults:
            console().print(
                "to repair it: remove the damaged files that are named, then run the build that made it again, which "
                "makes them anew; what is sound is not made again"
            )
    if report.faults:
        raise typer.Exit(5)


@app.command(rich_help_panel=LOOK)
def diff(before: Url, after: Url, as_json: AsJson = False) -> None:
    """Compare two datasets by their manifests. Exit 1 if they differ."""
    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect.diff import diff as compare

    changes = compare(open_dataset(before), open_dataset(after))
    if as_json:
        print_json(changes)
    else:
        for change in changes:
            console().print(str(change), markup=False)
        if not changes:
            console().print("the same dataset")
    if changes:
        raise typer.Exit(1)


@app.command(rich_help_panel=VERSIONS)
def sweep(
    url: Place,
    as_json: AsJson = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the orphans; without it they are only listed.")
    ] = False,
    grace_hours: Annotated[float, typer.Option(help="Keep what is younger, by the store's clock.", min=0)] = 168.0,
) -> None:
    """Find objects that no published version names: left by builds that were killed or given up."""
    from bamba_data.inspect import garbage
    from bamba_data.inspect.show import size

    objects = garbage.find(url, grace_hours * 3600)
    removed = garbage.remove(url, objects) if delete else 0
    if as_json:
        print_json({**dataclasses.asdict(objects), "removed": removed})
        return
    for entry in objects.orphans:
        console().print(f"{'removed' if delete else 'orphan '} {entry.path}  {size(entry.size_bytes)}", markup=False)
    for lease in objects.leases:
        console().print(f"a build is running: {lease}", markup=False)
    total = sum(entry.size_bytes for entry in objects.orphans)
    console().print(
        f"{len(objects.orphans):,} orphans of {size(total)}, {len(objects.young):,} younger than {grace_hours:g} h "
        f"kept, {objects.kept:,} objects in use"
        + ("" if delete else "; nothing was removed (--delete removes the orphans)")
    )
