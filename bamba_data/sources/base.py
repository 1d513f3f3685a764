"""What every corpus boils down to: a `Source` says where files lie and how their records become documents."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from bamba_data.cached_property import cached_property
from bamba_data.errors import RecipeError, UserError
from bamba_data.sources.compression import Choice

#: A source's name becomes a folder `dataset=<name>` and a key in mixes, so it is short and plain.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Form = Literal["jsonl", "parquet"]


class Strict(BaseModel):
    """Frozen, no unknown keys, no silent conversions, no infinities: the base of all that users write in recipes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ignored_types=(cached_property,)
    )

    #: Fields that came later. At their defaults they are left out of what is written down, so that what was made of
    #: older recipes (locks, units, indexes, all named by digests of such dumps) keeps its name.
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = dump(self)
        for name in self.later & said.keys():
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del said[name]
        return said


class TextRule(Strict):
    """Which fields hold the text and the id of a record, and how several texts are joined.

    `fields` are joined by `join`, and a record must have them all. Or `text_field`: one name, or several, of which
    the first that a record has (and that is not null) is its text. A name with dots, `a.b`, is the field of that very
    name, or else the field `b` of the object (in parquet: the struct) `a`. Without an id field, or where a record
    lacks it, the id is made of the file and the row.
    """

    later = frozenset({"text_field"})

    fields: list[str] = Field(default=["text"], min_length=1)
    text_field: str | Annotated[list[str], Field(min_length=1)] | None = None
    join: str = "\n\n"
    id_field: str | None = "id"

    @property
    def texts(self) -> list[list[str]]:
        """For every text that is joined, the names that it may have, the first one first."""
        if self.text_field is None:
            return [[name] for name in self.fields]
        return [[self.text_field] if isinstance(self.text_field, str) else self.text_field]

    @model_validator(mode="after")
    def _distinct(self) -> "TextRule":
        if self.text_field is not None and self.fields != ["text"]:
            raise ValueError(
                "text_field is one text (the first of its names that is there), fields are joined: say one"
            )
        names = [*(name for names in self.texts for name in names), self.id_field]
        if twice := sorted({name for name in names if name is not None and names.count(name) > 1}):
            raise ValueError(f"fields and id_field must be distinct, {twice} stand twice")
        return self


class Listing(Strict):
    """A published list of files for a host that cannot list: a text at `url`, gzipped or plain, of a path a line.
    `prefix` is what each path has before the name below the location's base; `sha256` is that of the file, if known."""

    url: str
    prefix: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class Location(Strict):
    """Where a source's files lie.

    `base` is a folder or URL as the recipe wrote it; `files` are names below it, literal or with `*`, `?`, `[ ]`
    (globs need a store that can list: disk, S3, the hub; plain https cannot, but by a `listing`).
    For the hub `base` is `hf://datasets/<org>/<name>` and `revision` a branch, tag or commit; locking turns it
    into a commit.
    """

    later = frozenset({"listing"})

    base: str
    files: list[str] = Field(min_length=1)
    revision: str | None = None
    listing: Listing | None = None


def refuse_unknown(field: str, asked: Iterable[str], known: Collection[str]) -> None:
    """`RecipeError` where a corpus has no such part."""
    if unknown := [name for name in asked if name not in known]:
        raise RecipeError(f"{field}: {unknown} are not among {list(known)}")


def hub_location(repo: str, base: str | None, files: list[str], revision: str) -> Location:
    """The files in a hub repository at a revision, or in a copy of it at `base`, which has no revisions."""
    if base is None or base.startswith("hf://"):
        return Location(base=base or repo, files=files, revision=revision)
    return Location(base=base, files=files)


#: A distribution, or `python`, as pip names it; with its version once it is locked.
Package = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(==[A-Za-z0-9.!+_-]{1,60})?$")]
FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class TransformRule(Strict):
    """A function of the user's own that makes another text of a document's, or drops it (see filtering/transform.py).

    `function` is `module:name`; its module is one file. Beside the text it is given the fields of the corpus that
    `columns` names. `packages` are the distributions that it stands on, `python` among them if it is named. Locking
    writes the sha256 of the file, and the version of every package as `name==version`; who writes these himself pins
    them.
    """

    function: Annotated[str, StringConstraints(pattern=FUNCTION)]
    columns: list[Annotated[str, StringConstraints(min_length=1)]] = []
    packages: list[Package] = []
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]

    @property
    def name(self) -> str:
        """Of the function in its module."""
        return self.function.partition(":")[2]

    @property
    def versions(self) -> dict[str, str | None]:
        """By package; None where it is not locked yet."""
        pairs = (package.partition("==") for package in self.packages)
        return {name: version or None for name, _, version in pairs}

    def __str__(self) -> str:
        source = f", sha256 {self.sha256[:16]}" if self.sha256 else ""
        return f"{self.function}{source}{''.join(f', {package}' for package in self.packages)}"

    @model_validator(mode="after")
    def _each_once(self) -> "TransformRule":
        packages = [package.partition("==")[0] for package in self.packages]
        for field, names in (("columns", self.columns), ("packages", packages)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{field}: {twice} stand twice")
        return self


def _is_condition(text: str | None) -> str | None:
    if text is not None:
        from bamba_data.filtering.condition import Condition  # here: a recipe without one does not wait for Polars

        try:
            Condition(text)
        except UserError as error:
            raise ValueError(str(error)) from None
    return text


#: SQL as Polars has it, over the columns of the corpus (see filtering/condition.py).
WhereText = Annotated[str | None, AfterValidator(_is_condition)]


class Source(Strict):
    """One named stream of documents: a folder of the dataset, an entry of a mix. `where` says which are kept, and
    `transform` what becomes of their texts."""

    later = frozenset({"compression", "where", "transform"})

    name: Name
    corpus: str
    form: Form | Literal["megatron", "datatrove"]  # the last of imported tokens alone: no recipe can say them
    text: TextRule
    location: Location
    compression: Choice = "auto"
    where: WhereText = None
    transform: TransformRule | None = None
    license: str
    attribution: str
    homepage: str


class Corpus(Strict, ABC):
    """The base of a corpus' config: a discriminator `corpus`, and what a recipe may say otherwise than upstream:
    `base`, to read a copy or other text in the same form, with its own `license` and `attribution`; how its files of
    lines are compressed, where their first bytes are not to be believed; `where`, which documents to keep; and
    `transform`, what to make of their texts."""

    later = frozenset({"compression", "where", "transform"})

    base: str | None = None
    license: str | None = None
    attribution: str | None = None
    compression: Choice = "auto"
    where: WhereText = None
    transform: TransformRule | None = None

    def sources(self) -> list[Source]:
        """The sources of the corpus, with what the recipe says otherwise.

        Raises:
            RecipeError: names the field that is wrong.
        """
        said = {"license": self.license, "attribution": self.attribution}
        changes: dict[str, Any] = {field: value for field, value in said.items() if value is not None}
        changes |= {"compression": self.compression, "where": self.where, "transform": self.transform}
        expanded = self.expand()
        if self.compression != "auto" and any(source.form == "parquet" for source in expanded):
            raise RecipeError(
                f"{expanded[0].corpus}.compression: {self.compression!r} is for files of lines; parquet says itself "
                "how its pages are compressed: leave it out"
            )
        return [source.model_copy(update=changes) for source in expanded]

    @abstractmethod
    def expand(self) -> list[Source]:
        """The sources of the corpus as upstream describes them."""
