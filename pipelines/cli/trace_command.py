"""`bamba-data trace`: from a row of a shard, a document, or a row that a loader served, to the upstream text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamba_data.cli.dataset_commands import LOOK
from bamba_data.cli.entry import group
from bamba_data.cli.options import AsJson, Code, Url, Version
from bamba_data.terminal import console, print_json

if TYPE_CHECKING:
    from bamba_data.format.dataset import Dataset


app = group()


@app.command(rich_help_panel=LOOK)
def trace(
    url: Url,
    place: Annotated[
        str | None, typer.Argument(metavar="SHARD:ROW", help="A shard (or a part of its name) and a row.")
    ] = None,
    document: Annotated[
        str | None, typer.Option(metavar="SOURCE:ID", help="The other way: find this document.")
    ] = None,
    global_row: Annotated[
        int | None, typer.Option(min=0, metavar="G", help="A row that a loader served: where each part came from.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The plan of that loader (saved beside its state).")
    ] = None,
    moved: Annotated[
        list[str] | None, typer.Option("--base", metavar="SOURCE=URL", help="Where a source's files lie now.")
    ] = None,
    code: Code = None,
    as_json: AsJson = False,
    version: Version = None,
) -> None:
    """Where a row came from: upstream file, revision, hash, line, text; and that its ids are right."""
    from bamba_data.errors import UserError
    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect import trace as tracing
    from bamba_data.storage.fetch import Fetcher

    if [place, document, global_row].count(None) != 2 or (global_row is None) != (plan is None):
        raise UserError("trace takes SHARD:ROW, or --document SOURCE:ID, or --global-row G --plan FILE")
    dataset = open_dataset(url, version)
    if global_row is not None and plan is not None:
        rows = _say_row(dataset, global_row, plan, as_json)
    elif document:
        rows = tracing.find_document(dataset, document)
    else:
        rows = [tracing.locate(dataset, place or "")]
    bases = dict(_pair(text) for text in moved or [])
    lineages = [tracing.trace(dataset, row, Fetcher(retry_seconds=30), bases, code=code) for row in rows]
    if as_json:
        print_json(lineages)
    else:
        for lineage in lineages:
            _print_trace(lineage)
    if any(lineage.same is False for lineage in lineages):
        raise typer.Exit(5)


def _pair(text: str) -> tuple[str, str]:
    from bamba_data.errors import UserError

    name, equals, url = text.partition("=")
    if not equals:
        raise UserError(f"--base {text}: expected SOURCE=URL")
    return name, url


def _print_trace(lineage: Any) -> None:
    from rich.markup import escape

    out = console()
    text = lineage.text if lineage.text is not None else lineage.decoded
    verdict = {
        True: "[green]yes[/]: the upstream text, encoded again, gives these ids",
        False: "[red]NO[/]: the upstream text, encoded again, gives other ids",
        None: f"[yellow]not checked[/]: {escape(lineage.why)}",
    }[lineage.same]
    out.print(f"[bold]{escape(lineage.shard)}[/]:{lineage.shard_row}  (block {lineage.block})")
    out.print(f"  document  {lineage.document_id}  of source {lineage.source}", markup=False)
    if lineage.dropped:
        out.print("  [red]dropped[/]   it lies in the shard, but is no longer part of this version")
    out.print(f"  upstream  {lineage.url}", markup=False)
    out.print(f"  sha256    {lineage.sha256 or 'not known: the file was not read to its end'}")
    out.print(f"  row       {lineage.row}")
    out.print(f"  tokens    {len(lineage.tokens):,}: {' '.join(map(str, lineage.tokens[:12]))} …")
    out.print(f"  same ids  {verdict}")
    out.print(
        f"  {'text' if lineage.text is not None else 'decoded':<8}  {text[:400]!r}{' …' if len(text) > 400 else ''}",
        markup=False,
    )


def _say_row(dataset: "Dataset", row: int, plan: Path, as_json: bool) -> "list[tuple[str, int]]":
    """Print what a served row is made of; the documents in it, as rows of shards."""
    from bamba.loader.cache.location import default_cache
    from bamba.loader.global_order import Order
    from bamba.loader.lineage import origins
    from bamba.loader.order.plan import load
    from bamba.loader.sources.descent import with_ancestors
    from bamba.loader.sources.shards import open_blocks

    loaded, cache = load(plan), default_cache()
    order = Order(loaded, with_ancestors(loaded, open_blocks(dataset, cache), cache))
    parts = origins(order, row)
    if not as_json:
        for origin in parts:
            console().print(
                f"tokens {origin.at:,} to {origin.at + origin.tokens - 1:,} of row {row:,}: epoch {origin.epoch} of "
                f"{origin.source}, tokens {origin.start:,} to {origin.start + origin.tokens - 1:,} of "
                f"{origin.shard}:{origin.shard_row}",
                markup=False,
            )
    places = ((origin.shard, origin.shard_row) for origin in parts)
    return [(shard, shard_row) for shard, shard_row in places if shard is not None and shard_row is not None]
