"""A recipe: which corpora, which tokenizer, how shards are cut, how much bad input is tolerated. YAML, validated.

Everything in a recipe can change the bytes of the dataset, except `network` and `bad_input.max_bad_rate`.
Where and how fast a build runs is not in it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from bamba_data.document import KEEPABLE, REASONS, Action
from bamba_data.errors import RecipeError
from bamba_data.sources.base import Name, Source, Strict
from bamba_data.sources.registry import AnyCorpus

MiB = 1 << 20
Spec = TypeVar("Spec", bound=Strict)


class TokenizerRule(Strict):
    """A Hugging Face `tokenizer.json`: `package:<name>` (ships with us), a path, https://, s3:// or
    hf://<org>/<name>@<commit>/tokenizer.json. Without `sha256` the one found when locking is pinned.

    `backend` is `auto` (the fastest that earns an identity certificate, else `tokenizers`), or one by name.
    """

    url: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    backend: str = "auto"


class ShardRule(Strict):
    """A block is a row group of at least `block_tokens` (the document that reaches it ends it); a shard is
    `blocks_per_shard` of them. The defaults give shards of about 33 M tokens, some 45 MB."""

    block_tokens: int = Field(default=1 << 18, ge=16, le=1 << 24)
    blocks_per_shard: int = Field(default=128, ge=1, le=4096)


class BadInput(Strict):
    """What becomes of records that cannot be documents, and of inputs that expand beyond reason.

    `policy` sets an action for a reason (see `document.REASONS`). `max_bad_rate` is dead letters per record
    read, over the whole build. `quarantine` lists inputs, as `<source>/<path>`, that are left out, and said so.
    """

    max_bad_rate: float = Field(default=1e-6, ge=0, le=1)
    policy: dict[str, Action] = Field(default_factory=dict)
    max_line_bytes: int = Field(default=64 * MiB, ge=1024)
    max_document_bytes: int = Field(default=16 * MiB, ge=1024, le=256 * MiB)
    max_inflate_ratio: int = Field(default=200, ge=2)
    quarantine: list[str] = Field(default_factory=list)

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: dict[str, Action]) -> dict[str, Action]:
        for reason, action in policy.items():
            if reason not in REASONS:
                raise ValueError(f"{reason!r} is no reason; the reasons are {', '.join(REASONS)}")
            if action == "keep" and reason not in KEEPABLE:
                raise ValueError(f"{reason!r} cannot be kept: such a record has no text to keep")
        return policy

    def action(self, reason: str) -> Action:
        return self.policy.get(reason, REASONS[reason])


class Network(Strict):
    """One budget for the whole cluster: requests a second to any one host, and for how long one file is retried.

    The hub allows 3,000 file requests in 5 minutes to an address without a token (10 a second).
    """

    requests_per_second: float = Field(default=8.0, gt=0)
    burst: int = Field(default=50, ge=1)
    retry_seconds: float = Field(default=900.0, ge=0)


class Limits(Strict):
    """For a taste of the real thing: the first files of each source, the first documents of each file."""

    files: int | None = Field(default=None, ge=1)
    documents: int | None = Field(default=None, ge=1)


class Recipe(Strict):
    """The whole of it. `folder` is where a relative `base` and tokenizer path start: the recipe file's folder."""

    name: Name
    tokenizer: TokenizerRule
    corpora: list[AnyCorpus] = Field(min_length=1)
    shards: ShardRule = ShardRule()
    bad_input: BadInput = BadInput()
    network: Network = Network()
    limits: Limits = Limits()
    unit_bytes: int = Field(default=256 * MiB, ge=1)

    @model_validator(mode="after")
    def _distinct_sources(self) -> "Recipe":
        names = [source.name.casefold() for source in self.sources()]  # they become folders
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"corpora: source names must be distinct, {twice} stand twice")
        return self

    def sources(self) -> list[Source]:
        return [source for corpus in self.corpora for source in corpus.sources()]


def load(text: str, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Parse YAML and apply `a.b=value` overrides (values are YAML too); errors name `where` and the field."""
    return load_as(Recipe, text, where, overrides)


def load_as(kind: type[Spec], text: str, where: str, overrides: Sequence[str] = ()) -> Spec:
    """The same for any specification that users write."""
    raw = _parse(text, where)
    if not isinstance(raw, dict):
        wanted = ", ".join(name for name, field in kind.model_fields.items() if field.is_required())
        raise RecipeError(f"{where}: expected a mapping with {wanted}")
    for override in overrides:
        _override(raw, override)
    try:
        return kind.model_validate(raw)
    except RecipeError as error:  # a corpus refused its own fields
        raise RecipeError(f"{where}: {error}") from None
    except ValidationError as error:
        lines = [f"{where}: {_place(problem['loc'])}: {_reason(problem)}" for problem in error.errors()]
        raise RecipeError("\n".join(lines)) from None


def load_file(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    return load_file_as(Recipe, path, overrides)


def load_file_as(kind: type[Spec], path: Path, overrides: Sequence[str] = ()) -> Spec:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    return load_as(kind, text, str(path), overrides)


def named(name: str, shipped: Path) -> Path:
    """The file of a recipe: one of the folder `shipped` by its name, any other by its path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not path.is_file():
        have = ", ".join(sorted(found.stem for found in shipped.glob("*.yaml")))
        raise RecipeError(f"{name}: no such recipe; these ship with us: {have}; or give the path of a .yaml file")
    return path


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key that stands twice is an error, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-6 for a string, because it has no dot; nobody else does.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{where}: not YAML: nested too deep") from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: expected a.b=value")
    place: Any = raw
    *folders, last = key.split(".")
    for part in folders:
        place = _step(place, part, key)
    parsed = _parse(value, f"--set {key}")
    if isinstance(place, dict):
        place[last] = parsed
    else:
        _step(place, last, key)
        place[int(last)] = parsed


def _step(place: Any, part: str, key: str) -> Any:
    """One step of a dotted key: into a mapping (made if missing) or to a list's element by number."""
    if isinstance(place, list):
        if not part.isdecimal() or int(part) >= len(place):
            raise RecipeError(f"--set {key}: {part!r} is no index into a list of {len(place)}")
        return place[int(part)]
    if isinstance(place, dict):
        return place.setdefault(part, {})
    raise RecipeError(f"--set {key}: {part!r} would stand below a plain value")


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "recipe"


def _reason(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, dict | list) or problem["type"] == "missing" else f" (it is {given!r})"
    return f"{message}{shown}"
