"""What a recipe can say: every field by its dotted name, as `--set` takes it, with type, default and meaning.

Names, types and defaults come from the classes that read the recipe. Meanings, with their units, come from a
`recipe_fields.yaml` beside them: the command `schema` and the page of the site are made from the same.
"""

import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bamba_data.errors import UserError
from bamba_data.plain_yaml import parse

#: What stands for the number of an element in the name of a field of a list.
NUMBER = "N"
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "none", Any: "anything"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class RecipeField:
    """A field. `default` is None where it must be said; `only` names the kinds of list element that have it, none where
    all do."""

    name: str
    kind: str
    default: str | None
    only: tuple[str, ...] = ()
    meaning: str = ""


def recipe_fields(model: type[BaseModel]) -> list[RecipeField]:
    """The fields of a recipe, those of its parts as `part.field`, of elements of a list as `list.N.field`. Without
    meanings: `described` adds them."""
    return list(_fields(model, ""))


def described(model: type[BaseModel], meanings: Path) -> list[RecipeField]:
    """The same with their meanings.

    Raises:
        LookupError: A field has no meaning, or a meaning no field: which.
    """
    said = parse(meanings.read_text(encoding="utf-8"), meanings.name)
    fields = recipe_fields(model)
    names = {field.name for field in fields}
    if unequal := sorted(names ^ said.keys()):
        raise LookupError(f"{meanings.name}: not described, or gone from the code: {', '.join(unequal)}")
    return [RecipeField(f.name, f.kind, f.default, f.only, str(said[f.name])) for f in fields]


def chosen(fields: list[RecipeField], asked: str | None) -> list[RecipeField]:
    """The field of that name, or those of the part of that name; all without one. Raises UserError, with the nearest
    names, if there is none."""
    if asked is None:
        return fields
    wanted = _numbered(asked)
    matching = [field for field in fields if field.name == wanted or field.name.startswith(f"{wanted}.")]
    if not matching:
        near = nearest(asked, [field.name for field in fields])
        raise UserError(f"{asked}: a recipe has no such field{f'; did you mean {near}?' if near else ''}")
    return matching


def nearest(name: str, known: list[str]) -> str | None:
    """The known dotted name that was probably meant, or None. Numbers of list elements stay as they were said."""
    asked, last = _numbered(name), name.rpartition(".")[2]
    same = [one for one in known if one.rpartition(".")[2] == last]  # the right word in the wrong place
    near = difflib.get_close_matches(asked, same or known, n=1, cutoff=0.0 if len(same) == 1 else 0.6)
    if not near:  # `lr` of `peak_lr`
        near = [one for one in known if last in one.rpartition(".")[2].split("_")][:1]
    if not near:
        by_last: dict[str, str] = {one.rpartition(".")[2]: one for one in reversed(known)}
        near = [by_last[word] for word in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
    if not near:
        return None
    numbers = iter([part for part in name.split(".") if part.isdecimal()])
    return ".".join(next(numbers, "0") if part == NUMBER else part for part in near[0].split("."))


def _numbered(name: str) -> str:
    return ".".join(NUMBER if part.isdecimal() else part for part in name.split("."))


def _fields(model: type[BaseModel], before: str) -> Iterator[RecipeField]:
    for name, field in model.model_fields.items():
        part, elements = _model_of(field.annotation), _elements_of(field.annotation)
        if part is not None:
            yield from _fields(part, f"{before}{name}.")
            continue
        yield RecipeField(f"{before}{name}", _kind(field), _default(field))
        if (optional := _optional_model_of(field.annotation)) is not None:
            yield from _fields(optional, f"{before}{name}.")
        yield from _of_elements(elements, f"{before}{name}.{NUMBER}.")


def _of_elements(kinds: list[type[BaseModel]], before: str) -> Iterator[RecipeField]:
    """The fields of all kinds of element, each once."""
    having: dict[str, list[tuple[str, RecipeField]]] = {}
    for kind in kinds:
        for field in _fields(kind, before):
            having.setdefault(field.name, []).append((_tag(kind), field))
    for name, of_kinds in having.items():
        texts = dict.fromkeys(field.kind for _, field in of_kinds)
        defaults = dict.fromkeys(field.default for _, field in of_kinds)
        only = () if len(of_kinds) == len(kinds) else tuple(tag for tag, _ in of_kinds)
        default = next(iter(defaults)) if len(defaults) == 1 else "as the kind has it"
        yield RecipeField(name, _or(texts), default, only)


def _tag(kind: type[BaseModel]) -> str:
    """By what a recipe names this kind of element: the literal of its `corpus`."""
    values = get_args(kind.model_fields["corpus"].annotation) if "corpus" in kind.model_fields else ()
    return str(values[0]) if values else kind.__name__


def _model_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _optional_model_of(annotation: Any) -> type[BaseModel] | None:
    """The model of `Model | None`."""
    arguments = [one for one in get_args(annotation) if one is not type(None)]
    is_one = get_origin(annotation) in (types.UnionType, typing.Union) and len(arguments) == 1
    return _model_of(arguments[0]) if is_one else None


def _elements_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that stand in a list of models, else none."""
    if get_origin(annotation) is not list:
        return []
    (inner,) = get_args(annotation)
    inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
    return [model for one in (get_args(inner) or (inner,)) if (model := _model_of(one))]


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{word} {value:,}" if isinstance(value, int) else f"{word} {value}"
        for limit in field.metadata
        for name, word in _BOUNDS.items()
        if (value := getattr(limit, name, None)) is not None
    ]
    return ", ".join([_words(field.annotation), *bounds])


def _or(words: Iterable[str]) -> str:
    """Each alternative once, `none` last."""
    alternatives = dict.fromkeys(part for word in words for part in word.split(" or "))
    return " or ".join(sorted(alternatives, key=lambda part: part == "none"))


def _words(annotation: Any) -> str:
    """A type in words that a reader of YAML knows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return _or(_words(one) for one in arguments)
    if origin is list and _elements_of(annotation):
        return "list of mappings"
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    if _model_of(annotation):
        return f"mapping with {', '.join(annotation.model_fields)}"
    return str(getattr(annotation, "__name__", annotation))
