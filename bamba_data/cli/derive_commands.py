"""The commands that make a version of others: drop, subset."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bamba_data.terminal import console, print_json

from .entry import group
from .options import AsJson, Url, Version

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
    version: Version = None,
    missing: Annotated[str, typer.Option(help="Entries that name no document are an 'error', or 'ignore'd.")] = "error",
    as_json: AsJson = False,
) -> None:
    """Publish a version without some documents. Shards stay as they are; readers of the version do not see them."""
    from bamba_data.derive.document_list import read_list
    from bamba_data.derive.dropping import drop as leave_out
    from bamba_data.errors import UserError

    if missing not in ("error", "ignore"):
        raise UserError(f"--missing is {missing!r}: it can be error or ignore")
    made = leave_out(url, read_list(listed), version, missing)  # type: ignore[arg-type]
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
