"""The options that commands of several rooms take, each made once: one idea has one name everywhere.

A name that an option had before goes on working (`OldName`), but no page of help shows it.
"""

from pathlib import Path
from typing import Annotated

import typer

from bamba_data.errors import UserError


def in_a_folder(param: typer.CallbackParam, file: Path | None) -> Path | None:
    """The callback of an option for a file that is written at the end: its folder is there, or nothing is begun."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"{param.opts[0]} {file}: the folder {file.parent} is not there; make it first")
    return file


Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="The dataset: a path or s3://bucket/prefix; URL@VERSION for a version of it."),
]
#: Where the command is about the place and all of its versions.
Place = Annotated[str, typer.Argument(metavar="URL", help="The dataset: a path or s3://bucket/prefix.")]
Code = Annotated[
    Path | None,
    typer.Option(
        "--code",
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="Where the sources of the recipe's transforms lie; they are run if they are those that were locked.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Version = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="This one instead of the newest: a number, a tag, a digest or how it begins, or withdrawn:NUMBER.",
    ),
]
Out = Annotated[str, typer.Option("--out", metavar="URL", help="The dataset: a local path or s3://bucket/prefix.")]
Data = Annotated[list[str] | None, typer.Option("--data", metavar="URL", help="A dataset; may be given several times.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe; may be given several times."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray cluster; without it, RAY_ADDRESS or one started here."),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed unit.")]
Interval = Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between progress lines, off a terminal.")]
