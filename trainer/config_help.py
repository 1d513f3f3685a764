"""What a training recipe can say, in words for a terminal: recipes that ship, fields, a recipe as it resolves."""

import yaml
from pydantic import BaseModel

from .config import RECIPES, Recipe


def shipped() -> list[str]:
    """The names of the recipes that ship with us."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def fields(model: type[BaseModel] = Recipe, before: str = "") -> list[tuple[str, str]]:
    """(dotted name, default) of every field that `--set` takes; "needed" where there is no default."""
    listed: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            listed += fields(kind, f"{before}{name}.")
        else:
            default = "needed" if field.is_required() else _shown(field.get_default(call_default_factory=True))
            listed.append((f"{before}{name}", default))
    return listed


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def epilog() -> str:
    """For `--help`: recipes, and the fields of each part of one."""
    parts: dict[str, list[str]] = {}
    for name, default in fields():
        part, dot, rest = name.rpartition(".")
        parts.setdefault(part or "(top)", []).append(f"{rest if dot else name}={default}")
    lines = [f"Recipes that ship with us: {', '.join(shipped())}.", "Fields for --set, with their defaults:"]
    lines += [f"{part}: {', '.join(named)}" for part, named in parts.items()]
    return "\n\n".join(lines)


def resolved(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults and overrides in it; it can be saved and given as --recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
