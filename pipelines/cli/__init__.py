"""`bamba-data`: one command line. `bamba-data VERB` acts on datasets, `bamba-data model VERB` on runs and models,
`bamba-data loader VERB` on how rows are served.

    build_commands.py      recipes, lock, plan, build, download
    append_command.py      append
    clean_commands.py      duplicates, contaminated
    cluster_commands.py    preflight, submit, status, logs, stop
    page_commands.py       page, serve
    trace_command.py       trace
    index_command.py       index-on-ray
    import_command.py      import
    model_commands.py      model: the trainer's commands, and pretrain
    options.py             options of those that make a dataset

In: words that a person typed. Out: what the command prints, and an exit code (bamba_data/exit_codes.py). No page of
help imports ray, torch or numpy. The other rooms bring their commands: bamba_data/cli, loader/cli.py, trainer/cli.
"""

import signal
import sys
from typing import Annotated

import typer

from bamba.loader.cli import app as loader_app
from bamba_data import __version__, exit_codes
from bamba_data.cli import app as data_app
from bamba_data.cli.entry import group

from . import (
    append_command,
    build_commands,
    clean_commands,
    cluster_commands,
    import_command,
    index_command,
    model_commands,
    page_commands,
    trace_command,
)
from .options import RECIPES, load_recipe

__all__ = ["RECIPES", "app", "load_recipe", "main", "run"]

app = group()
for commands in (
    build_commands.app,
    import_command.app,
    index_command.app,
    data_app,
    append_command.app,
    clean_commands.app,
    trace_command.app,
    page_commands.app,
    cluster_commands.app,
):
    app.add_typer(commands)
GROUPS = "Groups of commands"
app.add_typer(model_commands.app, name="model", rich_help_panel=GROUPS)
app.add_typer(loader_app, name="loader", rich_help_panel=GROUPS)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"bamba-data {__version__}")
        raise typer.Exit


@app.callback()
def bamba_data(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print our version and exit.")
    ] = False,
) -> None:
    """Datasets of tokens: make them, look at them, serve their rows, train on them."""


def main(arguments: list[str] | None = None) -> None:
    """Run `bamba-data` and exit."""
    sys.exit(run(app, arguments))


def run(commands: typer.Typer, arguments: list[str] | None = None, program: str = "bamba-data") -> int:
    """The exit code of a command line; every error of ours is one message on stderr."""
    # As Ctrl-C: no Exception, for Ray, while it starts, logs those and goes on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return exit_codes.run(commands, arguments, program)
