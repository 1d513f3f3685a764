"""The command `schema`: what a recipe of a dataset can say. `model schema` is the same for a training recipe."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bamba_data.terminal import console, print_json

from .entry import group
from .options import AsJson

if TYPE_CHECKING:
    from pydantic import BaseModel

app = group()
FieldArgument = Annotated[
    str | None, typer.Argument(metavar="[FIELD]", help="One field or part, such as bad_input or corpora.0.files.")
]


@app.command(rich_help_panel="Make a dataset")
def schema(field: FieldArgument = None, as_json: AsJson = False) -> None:
    """Print what a recipe can say: every field with its type, default and meaning, as --set takes it."""
    from bamba_data import recipe

    print_schema(recipe.Recipe, Path(recipe.__file__).parent / "recipe_fields.yaml", field, as_json)


def print_schema(model: "type[BaseModel]", meanings: Path, field: str | None, as_json: bool) -> None:
    """Print the fields of a recipe that is read by `model`. Raises UserError if it has no such field."""
    from bamba_data.recipe_schema import chosen, described

    fields = chosen(described(model, meanings), field)
    if as_json:
        print_json([asdict(one) for one in fields])
        return
    for one in fields:
        default = "needed" if one.default is None else f"default {one.default or chr(39) * 2}"
        only = f"; only {', '.join(one.only)}" if one.only else ""
        console().print(f"{one.name}  ({one.kind}; {default}{only})\n    {one.meaning}", markup=False)
