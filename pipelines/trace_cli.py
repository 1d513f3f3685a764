"""`bamba-data trace`: from a row of a shard, a document, or a row that a loader served, to the upstream text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamba_data.cli import AsJson, Url, VersionOption, app, console, print_json

if TYPE_CHECKING:
    from bamba_data.format.dataset import Dataset


@app.command()
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
    as_json: AsJson = False,
    version: VersionOption = None,
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
    bases = dict(_pair(one) for one in moved or [])
    found = [tracing.trace(dataset, row, Fetcher(retry_seconds=30), bases) for row in rows]
    if as_json:
        print_json(found)
    else:
        for one in found:
            _print_trace(one)
    if any(one.same is False for one in found):
        raise typer.Exit(5)


def _pair(text: str) -> tuple[str, str]:
    from bamba_data.errors import UserError

    name, equals, url = text.partition("=")
    if not equals:
        raise UserError(f"--base {text}: expected SOURCE=URL")
    return name, url


def _print_trace(one: Any) -> None:
    from rich.markup import escape

    out = console()
    text = one.text if one.text is not None else one.decoded
    verdict = {
        True: "[green]yes[/]: the upstream text, encoded again, gives these ids",
        False: "[red]NO[/]: the upstream text, encoded again, gives other ids",
        None: f"[yellow]not checked[/]: {escape(one.why)}",
    }[one.same]
    out.print(f"[bold]{escape(one.shard)}[/]:{one.shard_row}  (block {one.block})")
    out.print(f"  document  {one.document_id}  of source {one.source}", markup=False)
    out.print(f"  upstream  {one.url}", markup=False)
    out.print(f"  sha256    {one.sha256 or 'not known: the file was not read to its end'}")
    out.print(f"  row       {one.row}")
    out.print(f"  tokens    {len(one.tokens):,}: {' '.join(map(str, one.tokens[:12]))} …")
    out.print(f"  same ids  {verdict}")
    out.print(
        f"  {'text' if one.text is not None else 'decoded':<8}  {text[:400]!r}{' …' if len(text) > 400 else ''}",
        markup=False,
    )


def _say_row(dataset: "Dataset", row: int, plan: Path, as_json: bool) -> "list[tuple[str, int]]":
    """Print what a served row is made of; the documents in it, as rows of shards."""
    from bamba.loader.cache.location import default_cache
    from bamba.loader.global_order import Order
    from bamba.loader.lineage import origins
    from bamba.loader.order.plan import load
    from bamba.loader.sources.shards import open_blocks

    order = Order(load(plan), open_blocks(dataset, default_cache()))
    found = origins(order, row)
    if not as_json:
        for one in found:
            console().print(
                f"tokens {one.at:,} to {one.at + one.tokens - 1:,} of row {row:,}: epoch {one.epoch} of {one.source}, "
                f"tokens {one.start:,} to {one.start + one.tokens - 1:,} of {one.shard}:{one.shard_row}",
                markup=False,
            )
    return [(one.shard, one.shard_row) for one in found if one.shard is not None and one.shard_row is not None]
