"""The lock: every input file of a recipe, resolved once on the driver and frozen, before any work starts.

Hub branches become commits; sizes, sha256s and etags are what the hosts tell. Workers fetch what the lock names
and nothing else. A sha256 that an earlier build learned at a first full read binds the later ones.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from bamba_data import canonical
from bamba_data.errors import CorruptManifest, RecipeError, SourceUnavailable, TokenizerError, UserError
from bamba_data.fetch import Fetcher
from bamba_data.locked import Facts, LockedFile
from bamba_data.paths import checked, distinct
from bamba_data.pure import check_pure
from bamba_data.recipe import Recipe
from bamba_data.sources.base import Source
from bamba_data.tokenizer import Tokenizer
from bamba_data.transport import hub_commit, hub_place, is_glob

FORMAT = "bamba-lock/1"
MAX_BYTES = 1 << 30
MAX_TOKENIZER_BYTES = 256 << 20
HEADS_AT_ONCE = 16


@dataclass(frozen=True)
class Lock:
    """`files` stand in the order of sources and names; `revisions` has the commit of every hub source."""

    sources: dict[str, Source]
    revisions: dict[str, str]
    files: tuple[LockedFile, ...]

    @cached_property
    def digest(self) -> str:
        return canonical.digest(self.to_json())

    @cached_property
    def by_source(self) -> dict[str, list[LockedFile]]:
        found: dict[str, list[LockedFile]] = {name: [] for name in self.sources}
        for file in self.files:
            found[file.source].append(file)
        return found

    def bound_to(self, known: Mapping[str, Facts]) -> "Lock":
        """This lock with the sha256s that were learned before, for the files (by key) of the same size."""

        def bound(file: LockedFile) -> LockedFile:
            learned = known.get(file.key)
            if learned is None or file.facts.sha256 or learned.size_bytes != file.facts.size_bytes:
                return file
            return LockedFile(file.source, file.path, file.url, file.facts._replace(sha256=learned.sha256))

        files = tuple(bound(file) for file in self.files)
        return Lock(self.sources, self.revisions, files)

    def moved_to(self, base: str) -> "Lock":
        """The same files, to be read from the mirror at `base`; each must carry a sha256."""
        if unknown := next((file for file in self.files if file.facts.sha256 is None), None):
            raise UserError(
                f"{unknown.key}: the lock has no sha256 of it, so its copy in {base} cannot be verified: "
                "lock the mirror itself with --relock --mirror"
            )
        files = tuple(
            LockedFile(f.source, f.path, f"{base.rstrip('/')}/{f.key}", f.facts._replace(etag=None)) for f in self.files
        )
        return Lock(self.sources, self.revisions, files)

    def public_url(self, file: LockedFile) -> str:
        """Where the file comes from, as the recipe says it: the same on every machine."""
        base = self.sources[file.source].location.base.rstrip("/")
        revision = self.revisions.get(file.source)
        return f"{base}{f'@{revision}' if revision else ''}/{file.path}"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "sources": {name: source.model_dump(mode="json") for name, source in self.sources.items()},
            "revisions": self.revisions,
            "files": [[f.source, f.path, f.url, *f.facts] for f in self.files],
        }


_Text = Annotated[str, Field(strict=True)]
_Size = Annotated[int, Field(strict=True, ge=0)]
_Sha256 = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]


class _Written(BaseModel):
    """A lock as it lies in a file: somebody else may have written it."""

    format: Literal["bamba-lock/1"]
    sources: dict[_Text, Source]
    revisions: dict[_Text, _Text]
    files: list[tuple[_Text, _Text, _Text, _Size | None, _Text | None, _Sha256 | None]]


def loads(data: bytes, where: str) -> Lock:
    raw = canonical.loads(data, where, MAX_BYTES)
    try:
        found = _Written.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "lock"
        raise CorruptManifest(where, f"{place}: {first['msg']}") from None
    if strangers := {*found.revisions, *(file[0] for file in found.files)} - found.sources.keys():
        raise CorruptManifest(where, f"it has no source {min(strangers)!r}")
    if misnamed := [name for name, source in found.sources.items() if name != source.name]:
        raise CorruptManifest(where, f"sources.{misnamed[0]}: is named otherwise in itself")
    files = tuple(
        LockedFile(source, checked(path), url, Facts(size_bytes, etag, sha256))
        for source, path, url, size_bytes, etag, sha256 in found.files
    )
    lock = Lock(found.sources, found.revisions, files)
    for files_of_one in lock.by_source.values():
        distinct([file.path for file in files_of_one])
    return lock


def request_key(recipe: Recipe, folder: Path) -> str:
    """What a lock depends on: two recipes with one key ask for the same files.

    The corpora and the limit of files as the recipe has them, and where its relative bases lie: `folder` is that of
    the recipe. Of URLs and absolute paths alone the key is the same on every machine.
    """
    asked = recipe.model_dump(mode="json", include={"corpora", "limits"})
    bases = {source.name: source.location.base for source in recipe.sources()}
    moved = {name: _absolute(base, folder) for name, base in bases.items() if not _starts_anywhere(base)}
    return canonical.digest([asked["corpora"], asked["limits"]["files"], *([moved] if moved else [])])[:32]


def _starts_anywhere(base: str) -> bool:
    """Whether a base means the same in every folder."""
    return "://" in base or Path(base).is_absolute()


def load_tokenizer(recipe: Recipe, folder: Path, fetcher: Fetcher) -> Tokenizer:
    """The tokenizer that the recipe names, checked against its sha256."""
    url = recipe.tokenizer.url
    if url.startswith("package:"):
        path = Path(__file__).parent / "tokenizers" / checked(url.removeprefix("package:"))
        if not path.is_file():
            have = ", ".join(sorted(found.name for found in path.parent.glob("*.json")))
            raise TokenizerError(f"tokenizer.url: {url} does not ship with us; these do: {have}")
        data = path.read_bytes()
    else:
        try:
            data = fetcher.read_all(_absolute(url, folder), MAX_TOKENIZER_BYTES)
        except SourceUnavailable as error:
            if "://" in url:
                raise  # a host may answer the next time
            raise TokenizerError(f"tokenizer.url: {error.url}: {error.detail}") from None
    check_pure(data)
    tokenizer = Tokenizer(data)
    if recipe.tokenizer.sha256 not in (None, tokenizer.sha256):
        raise TokenizerError(
            f"tokenizer.sha256: {url} has sha256 {tokenizer.sha256}, the recipe says {recipe.tokenizer.sha256}"
        )
    return tokenizer


def resolve(recipe: Recipe, folder: Path, fetcher: Fetcher) -> Lock:
    """Ask every host once. `folder` is where the recipe lies: relative bases start there."""
    sources = {source.name: source for source in recipe.sources()}
    revisions: dict[str, str] = {}
    files: list[LockedFile] = []
    for source in sources.values():
        base = _absolute(source.location.base, folder)
        if base.startswith("hf://"):
            place = hub_place(base)
            if place.path or place.revision:
                raise RecipeError(f"source {source.name}: base {base}: folders go into files, revisions into revision")
            commit = fetcher.persist(base, lambda b=base, s=source: hub_commit(b, s.location.revision))  # type: ignore[misc]
            revisions[source.name] = commit
            base = f"{base.rstrip('/')}@{commit}"
        elif source.location.revision is not None:
            raise RecipeError(f"source {source.name}: only hf:// has revisions, {base} has none")
        found = _find(source, base, recipe.limits.files, fetcher)
        distinct([path for path, _ in found])
        files.extend(
            LockedFile(source.name, checked(path), f"{base.rstrip('/')}/{path}", facts) for path, facts in found
        )
    return Lock(sources, revisions, tuple(files))


def _find(source: Source, base: str, limit: int | None, fetcher: Fetcher) -> list[tuple[str, Facts]]:
    patterns = source.location.files
    if limit is not None and not any(map(is_glob, patterns)):
        patterns = patterns[:limit]

    def matches(pattern: str) -> list[tuple[str, Facts]]:
        try:
            found = fetcher.matches(base, pattern)
        except SourceUnavailable as error:
            if error.detail != "no such file":
                raise
            raise RecipeError(f"source {source.name}: {error.url}: no such file") from None
        if not found:
            raise RecipeError(f"source {source.name}: nothing at {base} matches {pattern!r}")
        return found

    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        found = [file for files in pool.map(matches, patterns) for file in files]
    paths = [path for path, _ in found]
    if len(set(paths)) != len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise RecipeError(f"source {source.name}: files name {twice!r} twice")
    return found[:limit]


def _absolute(url: str, folder: Path) -> str:
    if "://" not in url:
        return str((folder / url).absolute())
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"not a URL ({error})") from None
    if "@" in parts.netloc:
        raise UserError("a URL with credentials in it is refused: give them in the environment instead")
    if parts.scheme in ("http", "https") and (parts.query or parts.fragment):
        raise UserError("a URL with a query in it is refused: it may be a secret, and would stand in the manifest")
    return url
