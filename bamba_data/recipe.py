"""A recipe: which corpora, which tokenizer, how shards are cut, how much bad input is tolerated. YAML, validated.

Everything in a recipe can change the bytes of the dataset, except `network` and `bad_input.max_bad_rate`.
Where and how fast a build runs is not in it.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from bamba_data.document import FILTERED, KEEPABLE, REASONS, WANTED, Action
from bamba_data.errors import RecipeError
from bamba_data.plain_yaml import MAX_BYTES, MAX_DEPTH, parse
from bamba_data.sources.base import Name, Source, Strict
from bamba_data.sources.compression import MAX_WINDOW_BYTES
from bamba_data.sources.registry import AnyCorpus

MiB = 1 << 20
MAX_SUGGESTIONS = 20  # in one answer
Spec = TypeVar("Spec", bound=Strict)


class TokenizerRule(Strict):
    """A Hugging Face `tokenizer.json`: `package:<name>` (ships with us), a path, https://, s3:// or
    hf://<org>/<name>@<commit>/tokenizer.json. Without `sha256` every run takes what is there then; one that finds
    another than the run before says so, and makes its units anew. To pin it, write the sha256, or the commit.

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

    `policy` sets an action for a reason (see `document.REASONS` and `FILTERED`). `max_bad_rate` is dead letters per
    record read, over the whole build. `quarantine` lists inputs, as `<source>/<path>`, that are left out, and said so.
    `empty_files` and `empty_sources` say whether an input without a byte, and a source without a document, is an
    error, as a failed copy or a wrong field would give, or kept as it is. `max_window_bytes` is how far back a file
    compressed by zstd or xz may refer, which is memory of every worker.
    """

    later = frozenset({"empty_files", "empty_sources", "max_window_bytes"})

    #: These decide whether a build is published, never what is in it: no unit is made again for them.
    verdict_only: ClassVar[frozenset[str]] = frozenset({"max_bad_rate"}) | later

    max_bad_rate: float = Field(default=1e-6, ge=0, le=1)
    policy: dict[str, Action] = Field(default_factory=dict)
    max_line_bytes: int = Field(default=64 * MiB, ge=1024)
    max_document_bytes: int = Field(default=16 * MiB, ge=1024, le=256 * MiB)
    max_inflate_ratio: int = Field(default=200, ge=2)
    max_window_bytes: int = Field(default=MAX_WINDOW_BYTES, ge=1 << 16, le=1 << 31)
    empty_files: Literal["error", "keep"] = "error"
    empty_sources: Literal["error", "keep"] = "error"
    quarantine: list[str] = Field(default_factory=list)

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: dict[str, Action]) -> dict[str, Action]:
        for reason, action in policy.items():
            if reason in WANTED:
                raise ValueError(f"{reason!r} is what `{reason.partition('_')[0]}` is for: such documents are dropped")
            if reason not in REASONS and reason not in FILTERED:
                reasons = [*REASONS, *(name for name in FILTERED if name not in WANTED)]
                raise ValueError(f"{reason!r} is no reason; the reasons are {', '.join(reasons)}")
            if action == "keep" and reason not in KEEPABLE:
                raise ValueError(f"{reason!r} cannot be kept: {_why_not(reason)}")
        return policy

    def action(self, reason: str) -> Action:
        """What becomes of a record that is bad for this reason."""
        return self.policy.get(reason) or REASONS.get(reason) or FILTERED[reason]


def _why_not(reason: str) -> str:
    if reason == "transform_error":
        return "the function gives no text for it"
    if reason in FILTERED:
        return "say in `where` what is to be kept, such as COALESCE(column, 0) >= 4"
    return "such a record has no text to keep"


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
    """Parse YAML and apply overrides.

    Args:
        text: the YAML.
        where: what errors call it.
        overrides: `a.b=value`, the value in YAML too; applied in order, after the file.

    Raises:
        RecipeError: one line for every field that is wrong.
    """
    return load_as(Recipe, text, where, overrides)


def load_as(kind: type[Spec], text: str, where: str, overrides: Sequence[str] = ()) -> Spec:
    """The same for any specification that users write."""
    raw = parse(text, where)
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
        for number, problem in enumerate(error.errors()[:MAX_SUGGESTIONS]):
            if problem["type"] == "extra_forbidden" and (meant := _meant(kind, problem)):
                lines[number] += f"; did you mean {meant}?"
        raise RecipeError("\n".join(lines)) from None


def _meant(kind: type[Strict], problem: Any) -> str | None:
    """The field that is nearest to one that there is not; the part, where a part was given."""
    from bamba_data.recipe_schema import nearest, recipe_fields

    known, location = [field.name for field in recipe_fields(kind)], problem["loc"]
    if isinstance(problem["input"], dict):
        known = list(dict.fromkeys(name.rpartition(".")[0] for name in known if "." in name))
    # After the number of a corpus pydantic says its kind, which is no part of the name.
    parts = [str(part) for at, part in enumerate(location) if at == 0 or not isinstance(location[at - 1], int)]
    return nearest(".".join(parts)[:200], known)


def load_file(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    return load_file_as(Recipe, path, overrides)


def load_file_as(kind: type[Spec], path: Path, overrides: Sequence[str] = ()) -> Spec:
    return load_as(kind, _read(path), str(path), overrides)


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecipeError(f"{path}: cannot be read (it is no regular file)")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RecipeError(f"{path}: cannot be read (more than {MAX_BYTES:,} bytes: is it the right file?)")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: cannot be read (not UTF-8 at byte {error.start:,}: save it as UTF-8)") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        detail = error.strerror if isinstance(error, OSError) else None
        raise RecipeError(f"{path}: cannot be read ({detail or error})") from None


def named(name: str, shipped: Path) -> Path:
    """The file of a recipe: one of the folder `shipped` by its name, any other by its path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    try:
        is_there = path.is_file()
    except OSError as error:  # a name longer than the file system takes
        raise RecipeError(f"{name[:200]}: cannot be read ({error.strerror})") from None
    if not is_there:
        have = ", ".join(sorted(recipe.stem for recipe in shipped.glob("*.yaml")))
        raise RecipeError(f"{name}: no such recipe; these ship with us: {have}; or give the path of a .yaml file")
    return path


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: expected a.b=value")
    place: Any = raw
    *folders, last = key.split(".")
    if len(folders) >= MAX_DEPTH:
        raise RecipeError(f"--set {key[:100]}…: nested deeper than {MAX_DEPTH}")
    for part in folders:
        place = _step(place, part, key)
    parsed = parse(value, f"--set {key}")
    if isinstance(place, dict):
        place[last] = parsed
    else:
        _step(place, last, key)
        place[int(last)] = parsed


def _step(place: Any, part: str, key: str) -> Any:
    """One step of a dotted key: into a mapping (made if missing) or to a list's element by number."""
    if isinstance(place, list):
        if not (part.isascii() and part.isdecimal() and len(part) < 10) or int(part) >= len(place):
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
    text = "" if isinstance(given, dict | list) or problem["type"] == "missing" else repr(given)
    shown = text and f" (it is {text if len(text) <= 200 else text[:200] + '…'})"
    return f"{message}{shown}"
