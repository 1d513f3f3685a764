"""The options that several commands take, and what a recipe's name means."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bamba_data.recipe import Recipe

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or the path of a YAML file.")]
Out = Annotated[str, typer.Option("--out", metavar="URL", help="The dataset: a local path or s3://bucket/prefix.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the recipe.")]
LimitFiles = Annotated[int | None, typer.Option(min=1, help="Only the first files of each source.")]
LimitDocuments = Annotated[int | None, typer.Option(min=1, help="Only the first records of each file.")]
Quarantine = Annotated[list[str] | None, typer.Option(metavar="SOURCE/PATH", help="Leave this input out, and say so.")]
Relock = Annotated[bool, typer.Option("--relock", help="Resolve the inputs anew, even if they are locked.")]
Mirror = Annotated[str | None, typer.Option(metavar="URL", help="Read the inputs from this mirror (see download).")]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster; without it, RAY_ADDRESS or one started here.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Units at once; all cores without it.")]
RetryStopped = Annotated[bool, typer.Option("--retry-stopped", help="Go on although an earlier attempt gave up.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed unit.")]
Interval = Annotated[float, typer.Option(min=0.1, help="Seconds between progress lines, off a terminal.")]

RECIPES = Path(__file__).parent / "recipes"


def load_recipe(
    name: str,
    overrides: list[str] | None,
    limit_files: int | None = None,
    limit_documents: int | None = None,
    quarantine: list[str] | None = None,
) -> "tuple[Recipe, Path]":
    """The recipe and the folder where its relative paths start."""
    from bamba_data.recipe import load_file, named

    path = named(name, RECIPES)
    changes = list(overrides or [])
    changes += [f"limits.files={limit_files}"] if limit_files else []
    changes += [f"limits.documents={limit_documents}"] if limit_documents else []
    if quarantine:
        changes.append(f"bad_input.quarantine={json.dumps(quarantine)}")
    return load_file(path, changes), path.parent
