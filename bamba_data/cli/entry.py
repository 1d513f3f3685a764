"""How a command line is put together: groups of commands, and commands that are run alone by `python -m`."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from .old_names import Command


def group(**settings: Any) -> typer.Typer:
    """An empty group of commands. Without a name it lends its commands to the group that it is added to."""
    return typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", **settings)


def alone(command: Callable[..., None], cls: type[TyperCommand] = Command) -> typer.Typer:
    """An app of one command, for `python -m MODULE`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command(cls=cls)(command)
    return app
