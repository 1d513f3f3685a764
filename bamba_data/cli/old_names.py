"""Names that an option had before: they work, and no page of help shows them.

@app.command(cls=Command)
def report(to: Annotated[Path, typer.Option("--out"), OldName("--to")]) -> None: ...
"""

import copy
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand


@dataclass(frozen=True)
class OldName:
    """In the `Annotated` of an option: what it was called."""

    name: str


class Command(TyperCommand):
    """A command of which some options have old names."""

    def make_parser(self, ctx: Any) -> Any:
        """The parser that the command line meets: it knows the old names, too."""
        parser = super().make_parser(ctx)
        for parameter in self.params:
            for old in self._old_names(parameter.name or ""):
                alias = copy.copy(parameter)  # only the parser gets it: help lists `self.params`
                alias.opts, alias.secondary_opts = [old], []
                alias.add_to_parser(parser, ctx)
        return parser

    def _old_names(self, parameter: str) -> Iterator[str]:
        function = inspect.unwrap(self.callback) if self.callback else None
        hint = typing.get_type_hints(function, include_extras=True).get(parameter) if function else None
        yield from (extra.name for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, OldName))
