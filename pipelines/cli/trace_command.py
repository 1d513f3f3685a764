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
    record: Annotated[
        str | None, typer.Option("--input", metavar="SOURCE/PATH:ROW", help="What became of this upstream record.")
    ] = None,
    upstream: Annotated[
        bool, typer.Option("--upstream", help="Look for a --document that was left out in the inputs, too: reads them.")
    ] = False,
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
    """Where a row came from: upstream file, revision, hash, line, text; and that its ids are right. Or the other way,
    from a document or a record upstream: where it is, or why it was left out, and by which version."""
    from bamba_data.errors import NoSuchDocument, UserError
    from bamba_data.format.dataset import open_dataset
    from bamba_data.inspect import trace as tracing
    from bamba_data.inspect.left_out import earlier_rows
    from bamba_data.storage.fetch import Fetcher

    asked = [place, document, record, global_row]
    if asked.count(None) != len(asked) - 1 or (global_row is None) != (plan is None):
        raise UserError(
            "trace takes SHARD:ROW, or --document SOURCE:ID, or --input SOURCE/PATH:ROW, or --global-row G --plan FILE"
        )
    if upstream and document is None:
        raise UserError("--upstream is for a --document SOURCE:ID that is in no shard")
    dataset, bases = open_dataset(url, version), dict(_pair(text) for text in moved or [])
    if record is not None:
        source, path, number = _record(record)
        if not (rows := tracing.find_row(dataset, source, path, number)):
            dataset, rows = earlier_rows(dataset, lambda one: tracing.find_row(one, source, path, number))
        if not rows:
            _say_left_out(dataset, (source, path, number), bases, code, as_json)
            return
    elif global_row is not None and plan is not None:
        rows = _say_row(dataset, global_row, plan, as_json)
    elif document:
        try:
            rows = tracing.find_document(dataset, document)
        except NoSuchDocument:
            dataset, rows = earlier_rows(dataset, lambda one: tracing.find_document(one, document or ""))
            if not rows and not upstream:
                raise
        if not rows:
            _say_left_out(dataset, document, bases, code, as_json)
            return
    else:
        rows = [tracing.locate(dataset, place or "")]
    lineages = [tracing.trace(dataset, row, Fetcher(retry_seconds=30), bases, code=code) for row in rows]
    if as_json:
        print_json(lineages)
    else:
        for lineage in lineages:
            _print_trace(lineage)
    if any(lineage.same is False for lineage in lineages):
        raise typer.Exit(5)


def _record(text: str) -> tuple[str, str, int]:
    from bamba_data.errors import UserError

    place, colon, row = text.rpartition(":")
    source, slash, path = place.partition("/")
    if not (colon and slash and row.isascii() and row.isdecimal() and path):
        raise UserError(f"--input {text}: expected SOURCE/PATH:ROW, such as web/part-00.jsonl.gz:17")
    return source, path, int(row)


def _say_left_out(
    dataset: "Dataset", asked: "str | tuple[str, str, int]", bases: dict[str, str], code: Path | None, as_json: bool
) -> None:
    """Print why a record upstream, or all of a document's id, are no documents."""
    from bamba_data.errors import UserError
    from bamba_data.inspect.left_out import find_left_out, left_out
    from bamba_data.inspect.trace import input_of
    from bamba_data.inspect.upstream import Upstream
    from bamba_data.storage.fetch import Fetcher
    from bamba_data.tokenization.tokenizer import Tokenizer

    tokenizer, upstream = Tokenizer(dataset.tokenizer_json()), Upstream(dataset, Fetcher(retry_seconds=30), bases, code)
    if isinstance(asked, str):
        source, _, name = asked.partition(":")
        records = list(find_left_out(dataset, tokenizer, upstream, source, name))
    else:
        source, path, row = asked
        one = left_out(dataset, tokenizer, upstream, input_of(dataset, source, path), row)
        records = [one] if one else []
    if not records:
        name = asked if isinstance(asked, str) else f"{asked[0]}/{asked[1]}:{asked[2]}"
        raise UserError(
            f"{name}: in no shard, and nothing in the recipe leaves it out: there is no such document, it is a second "
            "one of its id, or a version dropped it whose shards are swept"
        )
    if as_json:
        print_json(records)
        return
    for record in records:
        out = console()
        out.print(f"[red]left out[/]  {record.reason}, {'dropped' if record.action == 'drop' else 'a dead letter'}")
        out.print(f"  because   {record.detail or 'the recipe says so'}", markup=False)
        out.print(f"  version   {record.version or '?'} ({record.manifest[:16]}) read it and left it out")
        out.print(f"  document  {record.document_id} of source {record.source}", markup=False)
        out.print(f"  upstream  {record.url}", markup=False)
        out.print(f"  row       {record.row}")
        if record.text is not None:
            out.print(f"  text      {record.text[:400]!r}{' …' if len(record.text) > 400 else ''}", markup=False)


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
    made = f"the upstream text, changed by {lineage.transform} and" if lineage.transform else "the upstream text,"
    verdict = {
        True: f"[green]yes[/]: {escape(made)} encoded again, gives these ids",
        False: f"[red]NO[/]: {escape(made)} encoded again, gives other ids",
        None: f"[yellow]not checked[/]: {escape(lineage.why)}",
    }[lineage.same]
    out.print(f"[bold]{escape(lineage.shard)}[/]:{lineage.shard_row}  (block {lineage.block})")
    out.print(f"  document  {lineage.document_id}  of source {lineage.source}", markup=False)
    if lineage.dropped:
        out.print("  [red]dropped[/]   no longer part of the dataset, though it lies in the shard")
        out.print(f"            {lineage.dropped}", markup=False)
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
