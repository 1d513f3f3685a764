"""The commands that make a version of others: drop, subset, merge, compact. (append builds: pipelines/cli.)"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bamba_data.terminal import console, print_json, progress_bar

from .entry import group
from .options import AsJson, Out, Url, Version

if TYPE_CHECKING:
    from bamba_data.derive.dropping import Derived

app = group()
DERIVE = "Derive a version from others"


@app.command(rich_help_panel=DERIVE)
def drop(
    url: Url,
    listed: Annotated[
        Path,
        typer.Option("--list", metavar="FILE", help="The documents: .parquet, .jsonl or .txt, see docs/derive.md."),
    ],
    list_form: Annotated[
        str, typer.Option(metavar="FORM", help="Who wrote the list: own, or datatrove, dolma or nemo (file or folder).")
    ] = "own",
    list_attribute: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a list of dolma's: the attribute that marks duplicates.")
    ] = None,
    list_source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of another tool's list: the source that its ids are of; else all."),
    ] = None,
    version: Version = None,
    missing: Annotated[str, typer.Option(help="Entries that name no document are an 'error', or 'ignore'd.")] = "error",
    as_json: AsJson = False,
) -> None:
    """Publish a version without some documents. Shards stay as they are; readers of the version do not see them."""
    from bamba_data.derive.dropping import drop as leave_out
    from bamba_data.derive.other_lists import read_any_list
    from bamba_data.errors import UserError

    if missing not in ("error", "ignore"):
        raise UserError(f"--missing is {missing!r}: it can be error or ignore")
    entries = read_any_list(listed, list_form, list_attribute, list_source)
    made = leave_out(url, entries, version, missing)  # type: ignore[arg-type]
    _say(made, "all of these documents had left before", as_json)


@app.command(rich_help_panel=DERIVE)
def subset(
    url: Url,
    sources: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME", help="A source that stays; may be given several times."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION", help="Which documents stay: SQL over source, document_id, file, row, tokens."
        ),
    ] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Publish a version of some sources, or of the documents for which an expression is true."""
    from bamba_data.derive.subsetting import subset as restrict

    _say(restrict(url, sources or [], where, version), "everything stays", as_json)


@app.command(rich_help_panel=DERIVE)
def merge(
    urls: Annotated[list[str], typer.Argument(metavar="URL URL...", help="The datasets; URL@VERSION for a version.")],
    out: Out,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the shards that lie at another place than --out.")] = False,
    refer: Annotated[
        bool,
        typer.Option("--refer", help="Leave them there: the result names their places and reads them there."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish datasets of one tokenizer as one, at the place of one of them or at an empty one."""
    from bamba_data.derive.merging import merge as join

    with progress_bar("copy", not as_json) as tick:
        made = join(urls, out, copy, tick, refer)
    _say(made, "", as_json)


@app.command(rich_help_panel=DERIVE)
def compact(
    url: Url,
    lost: Annotated[
        float, typer.Option(min=0, max=1, help="Write a shard anew if this share of its tokens was dropped; 0: if any.")
    ] = 0.2,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write the shards anew that have lost much. Content and identity stay; the old files go with their versions."""
    from bamba_data.derive.compacting import compact as write_anew

    with progress_bar("compact", not as_json) as tick:
        made = write_anew(url, lost, version, tick)
    if made is None or as_json:
        _say(made, f"no shard has lost {lost:.0%} of its tokens", as_json)
        return
    console().print(
        f"version {made.version.number} ({made.manifest.digest[:16]}): the same content in {_count_shards(made):,} "
        f"shards; {made.documents:,} dropped documents with {made.tokens:,} tokens are in them no longer",
        markup=False,
    )


def _count_shards(made: "Derived") -> int:
    return sum(source.shards for source in made.manifest.sources)


def _say(made: "Derived | None", nothing: str, as_json: bool) -> None:
    """What was published, or why nothing was."""
    if as_json:
        print_json(
            {"published": False}
            if made is None
            else {
                "published": True,
                "version": made.version.number,
                "dataset": made.manifest.digest,
                "identity": made.manifest.identity,
                "documents_left": made.manifest.totals.kept,
                "tokens_left": made.manifest.totals.tokens,
                "documents_removed": made.documents,
                "tokens_removed": made.tokens,
                "missing": made.missing,
            }
        )
        return
    if made is None:
        console().print(f"nothing new: {nothing}", markup=False)
        return
    missing = f"; {made.missing:,} entries name no document" if made.missing else ""
    console().print(
        f"version {made.version.number} ({made.manifest.digest[:16]}): {made.documents:,} documents with "
        f"{made.tokens:,} tokens left, {made.manifest.totals.kept:,} with {made.manifest.totals.tokens:,} "
        f"stay{missing}",
        markup=False,
    )
