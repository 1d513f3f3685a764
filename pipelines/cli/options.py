"""The options of commands that make a dataset, and what a recipe's name means."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bamba_data.cli.old_names import OldName

if TYPE_CHECKING:
    from bamba_data.recipe import Recipe

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or the path of a YAML file.")]
LimitFiles = Annotated[int | None, typer.Option(min=1, help="Only the first files of each source.")]
LimitDocuments = Annotated[int | None, typer.Option(min=1, help="Only the first records of each file.")]
Quarantine = Annotated[list[str] | None, typer.Option(metavar="SOURCE/PATH", help="Leave this input out, and say so.")]
Relock = Annotated[bool, typer.Option("--relock", help="Resolve the inputs anew, even if they are locked.")]
Mirror = Annotated[
    str | None, typer.Option("--mirror", metavar="URL", help="Read the inputs from this mirror (see download).")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Units at once; all cores without it.")]
RetryStopped = Annotated[bool, typer.Option("--retry-stopped", help="Go on although an earlier attempt gave up.")]
JobServer = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="ADDRESS",
        help="The job server of a Ray cluster, such as http://127.0.0.1:8265.",
    ),
    OldName("--cluster"),
]

RECIPES = Path(__file__).parents[1] / "recipes"
LOCAL = "local"  # the recipe that ships with us for the folder where a person stands
_PLACE = re.compile(r"corpora\.\d+\.base|tokenizer\.url")


def load_recipe(
    name: str,
    overrides: list[str] | None,
    limit_files: int | None = None,
    limit_documents: int | None = None,
    quarantine: list[str] | None = None,
) -> "tuple[Recipe, Path]":
    """The recipe and the folder where its relative paths start: the recipe's own, for LOCAL the current one. What a
    command line says of a recipe that ships with us starts at the current folder, too: nobody means ours by it."""
    from bamba_data.recipe import load_file, named

    path = named(name, RECIPES)
    is_shipped = path.parent == RECIPES
    changes = [_from_here(change) if is_shipped else change for change in overrides or []]
    changes += [f"limits.files={limit_files}"] if limit_files else []
    changes += [f"limits.documents={limit_documents}"] if limit_documents else []
    if quarantine:
        changes.append(f"bad_input.quarantine={json.dumps(quarantine)}")
    return load_file(path, changes), Path.cwd() if is_shipped and path.stem == LOCAL else path.parent


def _from_here(change: str) -> str:
    """`--set corpora.0.base=texts`, with the folder that is meant."""
    field, _, value = change.partition("=")
    is_path = _PLACE.fullmatch(field) and value and "://" not in value and not value.startswith("package:")
    return f"{field}={json.dumps(str(Path(value).absolute()))}" if is_path else change
