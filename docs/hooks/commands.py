"""The page of the command line, made from the app itself: every command, argument and option, as `--help` says them."""

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

HEAD = """# Command line

Made from the program itself; `bamba-data COMMAND --help` says the same. Exit codes: 0 done, 2 correct the command, 3
over the budget for bad records, 4 run the same again, 5 something is damaged ([Build](build.md#exit-codes)).

What was `python -m trainer.evaluate`, `python -m loader.pack` and so on stays; under `torchrun` and `ray job submit` it
is what you type. Options have one name everywhere (`--out`, `--address`, `--workers`); the names that they had before
work as well.

"""


def page() -> str:
    from pipelines.cli import app

    command = typer.main.get_command(app)
    return HEAD + "\n".join(_described(command, "bamba-data", level=2))


def _described(command: Any, path: str, level: int) -> Iterator[str]:
    """A command and, below it, its sub-commands: by panel of the help where they have one, else by name."""
    subcommands = {name: one for name, one in getattr(command, "commands", {}).items() if not one.hidden}
    if path != "bamba-data":
        yield f"{'#' * min(level, 6)} `{path}`\n"
        yield f"{_text(command.help)}\n"
    if not subcommands:
        yield f"```console\n$ {_usage(command, path)}\n```\n"
    if parameters := [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]:
        yield "| | | |\n| --- | --- | --- |"
        yield from (_row(one) for one in parameters)
        yield ""
    for panel, names in _by_panel(subcommands).items():
        if path == "bamba-data":
            yield f"## {panel}\n"
        for name in names:
            yield from _described(subcommands[name], f"{path} {name}", level + 1)


def _by_panel(subcommands: dict[str, Any]) -> dict[str, list[str]]:
    """The names of commands by the panel in which `--help` shows them, both in the order of the help."""
    panels: dict[str, list[str]] = {}
    for name, command in subcommands.items():
        panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(name)
    return panels


def _usage(command: Any, path: str) -> str:
    arguments = [_metavar(one) for one in command.params if one.param_type_name == "argument"]
    return " ".join([path, *arguments, "[OPTIONS]"])


def _metavar(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()).strip("[]")
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _cells(f"`{_metavar(parameter)}`", "required" if parameter.required else "", _text(parameter.help))
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    kind = "" if parameter.is_flag else f" `{parameter.metavar or _kind(parameter.type_descriptor.annotation)}`"
    default = parameter.default
    shown = default not in (None, False, "", ()) and not callable(default) and not parameter.required
    return _cells(names + kind, f"default `{default}`" if shown else "", _text(parameter.help))


def _kind(annotation: Any) -> str:
    """What an option takes, as a word: `list[int]` and `int | None` take an INTEGER."""
    inner = [one for one in typing.get_args(annotation) if isinstance(one, type) and one is not type(None)]
    return _WORDS.get(inner[0] if inner else annotation, "VALUE")


_WORDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


def _cells(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in cells)} |"


def _text(text: str | None) -> str:
    """Of a help text, as markdown: what looks like HTML is no HTML."""
    return inspect.cleandoc(text or "").replace("\b\n", "").replace("<", "&lt;").replace("*", "\\*")
