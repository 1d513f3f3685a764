"""Index a text source once, so that a loader can tokenize it on the fly in one provable order.

    python -m loader.index --name web --tokenizer tokenizer.json --files 's3://bucket/web/*.parquet' --index s3://bucket/index
    python -m loader.index --recipe fineweb.yaml --index s3://bucket/index

Run again, it reads only the files that are new or changed. Exit codes are those of bamba_data.errors.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bamba_data.errors import UserError

from ..cache.location import default_cache

if TYPE_CHECKING:
    from bamba_data.recipe import BadInput

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def index(
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
    at: Annotated[
        str | None, typer.Option("--index", metavar="URL", help="Where the index goes: a folder or s3:// URL.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")] = None,
) -> None:
    """Read every file of a text source once and write down how many tokens each document and block has."""
    from bamba_data.resources import cores
    from bamba_data.storage.fetch import Fetcher
    from bamba_data.storage.local_disk import scratch_folder

    from ..text.index_build import in_processes, make_index
    from ..text.spec import TextSource, text_sources

    if (recipe is None) != (name is not None and files is not None and tokenizer is not None):
        raise UserError("an index needs --name, --files and --tokenizer, or --recipe instead of them")
    if recipe is not None:
        sources = text_sources(recipe, at)
    else:
        sources = [
            TextSource(
                name=name or "",
                files=files or [],
                tokenizer=tokenizer or "",
                text=text or "text",
                id=None if no_id else id_column,
                index=at,
                join=join,
                backend=backend,
                block_tokens=block_tokens,
                rules=_rules(rules),
                text_field=text_field or None,
            )
        ]
    screen = Console(stderr=True, highlight=False)
    fetcher = Fetcher()
    each = in_processes(workers or cores(), scratch_folder(), fetcher)
    for source in sources:
        made = make_index(
            source,
            source.index or str(default_cache() / "text"),
            fetcher,
            each,
            lambda file: screen.print(
                f"{file.url}: {file.account.kept:,} documents, {file.account.tokens:,} tokens, {file.blocks:,} blocks",
                markup=False,
            ),
        )
        typer.echo(f"{source.name}: {made.summary}")


def _rules(text: str) -> "BadInput":
    from pydantic import ValidationError

    from bamba_data.recipe import BadInput

    try:
        return BadInput.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--rules: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
