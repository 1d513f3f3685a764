"""The manifest commands: show, stats, verify, diff, sweep. They import what they need when they run, and
neither ray nor torch. `pipelines.cli` mounts them and adds the commands that make datasets."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

Url = Annotated[str, typer.Argument(metavar="URL", help="The dataset: a local path or s3://bucket/prefix.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
VersionOption = Annotated[
    str | None,
    typer.Option(
        "--version", metavar="VERSION", help="This one instead of the newest: a number, a tag, or withdrawn:NUMBER."
    ),
]


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def console() -> Any:
    from rich.console import Console

    # Into a pipe or a file nothing is folded to the width of a terminal that is not there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


@app.command()
def show(
    url: Url,
    as_json: AsJson = False,
    version: VersionOption = None,
    shards: Annotated[bool, typer.Option("--shards", help="List every shard.")] = False,
) -> None:
    """Print a dataset as a tree: sources, shards, tokens, tokenizer, digests, licences."""
    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect.show import tree

    dataset = open_dataset(url, version)
    if as_json:
        found = {"version": dataset.version, "digest": dataset.manifest.digest}
        found["manifest"] = dataset.manifest.model_dump(mode="json")
        if shards:
            found["shards"] = dataset.shards.to_dicts()
        print_json(found)
    else:
        console().print(tree(dataset, shards))


@app.command()
def stats(
    url: Url,
    as_json: AsJson = False,
    version: VersionOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the lengths to this PNG, PDF or SVG.")] = None,
) -> None:
    """Token counts and length quantiles of every source."""
    from rich.table import Table

    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect import stats as measuring

    dataset = open_dataset(url, version)
    found = measuring.stats(dataset)
    if plot:
        measuring.plot(dataset, plot)
    if as_json:
        print_json(found)
        return
    table = Table("source", "documents", "tokens", "share", "bytes/token", "stored/token", "mean", *_QUANTILES)
    for one in found:
        table.add_row(
            one.source,
            f"{one.documents:,}",
            f"{one.tokens:,}",
            f"{one.share:.2%}",
            f"{one.bytes_per_token:.2f}",
            f"{one.stored_bytes_per_token:.2f}",
            f"{one.mean:,.0f}",
            *(f"{one.quantiles[q]:,.0f}" for q in _QUANTILES),
        )
    console().print(table)
    if plot:
        console().print(f"drawn to {plot}")


_QUANTILES = ("0.01", "0.1", "0.25", "0.5", "0.75", "0.9", "0.99")


@app.command()
def verify(
    url: Url,
    as_json: AsJson = False,
    version: VersionOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte: hashes, blocks, ids, a re-encoded sample.")
    ] = False,
) -> None:
    """Check that a dataset is what its manifest says. Exit 5 if not, with every fault named."""
    from rich.markup import escape

    from bamba_data.inspect.verify import verify as check

    with _bar("verify", not as_json) as tick:
        report = check(url, version, full, tick)
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
            + (f"; {report.unlisted:,} objects of other versions, or of none" if report.unlisted else "")
        )
        if report.faults:
            console().print(
                "to repair it: remove the damaged files that are named, then run the build that made it again, which "
                "makes them anew; what is sound is not made again"
            )
    if report.faults:
        raise typer.Exit(5)


@contextlib.contextmanager
def _bar(name: str, wanted: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal: `tick(done, total)` moves it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not (wanted and screen.is_terminal)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@app.command()
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


@app.command()
def sweep(
    url: Url,
    as_json: AsJson = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the orphans; without it they are only listed.")
    ] = False,
    grace_hours: Annotated[float, typer.Option(help="Keep what is younger, by the store's clock.", min=0)] = 168.0,
) -> None:
    """Find objects that no published version names: left by builds that were killed or given up."""
    from bamba_data.inspect import garbage as sweeping
    from bamba_data.inspect.show import size

    found = sweeping.find(url, grace_hours * 3600)
    removed = sweeping.remove(url, found) if delete else 0
    if as_json:
        print_json({**dataclasses.asdict(found), "removed": removed})
        return
    for entry in found.orphans:
        console().print(f"{'removed' if delete else 'orphan '} {entry.path}  {size(entry.size_bytes)}", markup=False)
    for lease in found.leases:
        console().print(f"a build is running: {lease}")
    total = sum(entry.size_bytes for entry in found.orphans)
    console().print(
        f"{len(found.orphans):,} orphans of {size(total)}, {len(found.young):,} younger than {grace_hours:g} h kept, "
        f"{found.kept:,} objects in use" + ("" if delete else "; nothing was removed (--delete removes the orphans)")
    )


from bamba_data import versions_cli as versions_cli  # noqa: E402 - adds its commands to the app
