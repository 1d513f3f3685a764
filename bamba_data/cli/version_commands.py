"""The commands on versions of a dataset: versions, withdraw, expire, tag."""

from typing import Annotated

import typer

from bamba_data.terminal import console, print_json

from .dataset_commands import VERSIONS
from .entry import group
from .options import AsJson, Place

app = group()
Number = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")]
Why = Annotated[str, typer.Option("--why", help="The reason, which readers are told.")]


@app.command(rich_help_panel=VERSIONS)
def versions(url: Place, as_json: AsJson = False) -> None:
    """List the versions of a dataset: which are offered, withdrawn, expired, tagged."""
    from bamba_data.catalog import listed
    from bamba_data.storage.store import open_store

    known = listed(open_store(url))
    if as_json:
        print_json(known)
        return
    for version in known:
        state = "newest" if version.newest else version.state
        tags = f"  tagged {', '.join(version.tags)}" if version.tags else ""
        said = f"  {version.said}" if version.said else ""
        console().print(
            f"{version.number:>4}  {state:<9}  {version.published_at}  {version.manifest[:16]}{tags}{said}",
            markup=False,
        )


@app.command(rich_help_panel=VERSIONS)
def withdraw(
    url: Place,
    version: Number,
    why: Why = "",
    undo: Annotated[bool, typer.Option("--undo", help="Offer it again.")] = False,
) -> None:
    """Take a version back: who asks for the newest gets another, who asks for it is told. Nothing is removed."""
    from bamba_data.catalog import offer_again
    from bamba_data.catalog import withdraw as take_back
    from bamba_data.storage.store import open_store

    store = open_store(url)
    if undo:
        done = offer_again(store, version)
        console().print(f"version {version} {'is offered again' if done else 'was not withdrawn'}", markup=False)
    else:
        done = take_back(store, version, why)
        console().print(f"version {version} {'is withdrawn' if done else 'was withdrawn before'}", markup=False)


@app.command(rich_help_panel=VERSIONS)
def expire(
    url: Place,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="VERSION...", help="These versions.")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="All but so many of the newest that are offered.")] = None,
    older_than: Annotated[float | None, typer.Option(min=0, metavar="DAYS", help="What is older.")] = None,
    why: Why = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
) -> None:
    """Let versions go, for good: no reader gets them, and the next sweep may remove what only they need.

    By number, or by a rule; no rule takes the newest, or one that is tagged.
    """
    from bamba_data import catalog
    from bamba_data.errors import UserError
    from bamba_data.storage.store import open_store

    has_rule = keep is not None or older_than is not None
    if bool(numbers) == has_rule:
        raise UserError("say which: numbers of versions, or a rule, --keep or --older-than (both may be given)")
    store = open_store(url)
    chosen = list(dict.fromkeys(numbers)) if numbers else catalog.to_expire(store, keep, older_than)
    if dry_run:
        console().print(f"would expire: {', '.join(map(str, chosen)) or 'none'}", markup=False)
        return
    done = catalog.expire(store, chosen, why)
    console().print(
        f"expired: {', '.join(map(str, done)) or 'none'}" + ("; bamba-data sweep finds what may go" if done else ""),
        markup=False,
    )


@app.command(rich_help_panel=VERSIONS)
def tag(
    url: Place,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-'.")],
    version: Annotated[int | None, typer.Argument(metavar="VERSION", min=1, help="The version's number.")] = None,
    move: Annotated[bool, typer.Option("--move", help="Although the name is another version's now.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tag, not the version.")] = False,
) -> None:
    """Give a version a name, by which it is read and which keeps it from expiring."""
    from bamba_data import catalog
    from bamba_data.errors import UserError
    from bamba_data.storage.store import open_store

    store = open_store(url)
    if remove == (version is not None):
        raise UserError("say a VERSION to tag, or --remove")
    if version is None:
        catalog.untag(store, name)
        console().print(f"the tag {name} is removed", markup=False)
    else:
        made = catalog.tag(store, name, version, move)
        console().print(f"{made.name} is version {made.version} ({made.manifest[:16]})", markup=False)
