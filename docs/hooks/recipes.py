"""The page of recipes' fields, made from the classes that read them and the meanings that `schema` prints."""

from collections.abc import Iterator
from pathlib import Path

from bamba_data import recipe
from bamba_data.recipe_schema import RecipeField, described
from trainer import config

HEAD = """# Fields of recipes

Every field of a recipe, by the dotted name that `--set` takes; `N` is the number of a list element. The same on the
command line: `bamba-data schema [FIELD]` for a dataset's recipe, `bamba-data model schema [FIELD]` for training.

"""


def page() -> str:
    """Markdown of the whole page. Raises LookupError for a field without a meaning, or a meaning without a field."""
    lines = ["## A dataset's recipe\n", *_table(described(recipe.Recipe, _meanings(recipe.__file__)))]
    lines += ["\n## A training recipe\n", *_table(described(config.Recipe, _meanings(config.__file__)))]
    return HEAD + "\n".join(lines) + "\n"


def _meanings(module: str | None) -> Path:
    return Path(module or "").parent / "recipe_fields.yaml"


def _table(fields: list[RecipeField]) -> Iterator[str]:
    yield "| field | type | default | |\n| --- | --- | --- | --- |"
    for field in fields:
        only = f" (only {', '.join(field.only)})" if field.only else ""
        default = "" if field.default is None else f"`{field.default or chr(39) * 2}`"
        yield f"| `{field.name}` | {field.kind} | {default} | {field.meaning}{only} |".replace("<", "&lt;")
