"""The lock: every input file of a recipe, resolved once on the driver and frozen, before any work starts.

Hub branches become commits; sizes, sha256s and etags are what the hosts tell. Workers fetch what the lock names
and nothing else. A sha256 that an earlier build learned at a first full read binds the later ones.
"""

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import (
    CorruptManifest,
    RecipeError,
    SourceUnavailable,
    TokenizerError,
    UnsafePath,
    UserError,
    first_fault,
)
from bamba_data.locking.exclusions import is_left_out
from bamba_data.locking.listings import chosen, listed_names
from bamba_data.recipe import Recipe
from bamba_data.resources import without_garbage_collection
from bamba_data.sources.base import Listing, Source
from bamba_data.storage.addresses import absolute, joined
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import NOT_ASKED, Facts, LockedFile
from bamba_data.storage.paths import checked, input_name, stored_name
from bamba_data.storage.transport import hub_commit, hub_place, is_pattern
from bamba_data.tokenization.purity import check_pure
from bamba_data.tokenization.tokenizer import Tokenizer

FORMAT = "bamba-lock/1"
MAX_BYTES = 1 << 30
MAX_TOKENIZER_BYTES = 256 << 20
HEADS_AT_ONCE = 16

#: What a host has, by the list that it publishes.
_Listed = Callable[[Listing], tuple[str, ...]]

_Q = TypeVar("_Q")
_A = TypeVar("_A")


@dataclass(frozen=True)
class Lock:
    """`files` stand in the order of sources and names; `revisions` has the commit of every hub source."""

    sources: dict[str, Source]
    revisions: dict[str, str]
    files: tuple[LockedFile, ...]

    @cached_property
    def digest(self) -> str:
        return canonical_json.sha256(self.data)

    @cached_property
    def data(self) -> bytes:
        """As it is written."""
        return canonical_json.dumps(self.to_json())

    @cached_property
    def by_source(self) -> dict[str, list[LockedFile]]:
        files: dict[str, list[LockedFile]] = {name: [] for name in self.sources}
        for file in self.files:
            files[file.source].append(file)
        return files

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
        """The same files, to be read from the mirror at `base`; each must carry a sha256, but those in quarantine."""
        if unknown := next((f for f in self.files if f.facts.sha256 is None and f.facts != NOT_ASKED), None):
            raise UserError(
                f"{unknown.key}: the lock has no sha256 of it, so its copy in {base} cannot be verified: "
                "lock the mirror itself with --relock --mirror"
            )
        files = tuple(
            LockedFile(
                f.source,
                f.path,
                joined(base, stored_name(f.key)),
                f.facts if f.facts == NOT_ASKED else f.facts._replace(etag=None),
            )
            for f in self.files
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
    """Parse and check a lock that somebody else may have written.

    Raises:
        CorruptManifest: names the first field that is wrong.
        UnsafePath: a name in it leads out of its base, or stands twice.
    """
    with without_garbage_collection():
        return _loads(data, where)


def _loads(data: bytes, where: str) -> Lock:
    raw = canonical_json.loads(data, where, MAX_BYTES)
    try:
        written = _Written.model_validate(raw)
    except ValidationError as error:
        raise CorruptManifest(where, f"field {first_fault(error)}") from None
    if strangers := {*written.revisions, *(file[0] for file in written.files)} - written.sources.keys():
        raise CorruptManifest(where, f"it has no source {min(strangers)!r}")
    if misnamed := [name for name, source in written.sources.items() if name != source.name]:
        raise CorruptManifest(where, f"sources.{misnamed[0]}: is named otherwise in itself")
    files = tuple(
        LockedFile(source, input_name(path), url, Facts(size_bytes, etag, sha256))
        for source, path, url, size_bytes, etag, sha256 in written.files
    )
    lock = Lock(written.sources, written.revisions, files)
    for name, files_of_one in lock.by_source.items():
        twice, times = Counter(file.path for file in files_of_one).most_common(1)[0] if files_of_one else ("", 0)
        if times > 1:
            raise UnsafePath(twice, f"stands twice in source {name}")
    return lock


def request_key(recipe: Recipe, folder: Path) -> str:
    """What a lock depends on: two recipes with one key ask for the same files.

    The corpora and the limit of files as the recipe has them, and where its relative bases lie: `folder` is that of
    the recipe. Of URLs and absolute paths alone the key is the same on every machine.
    """
    asked = recipe.model_dump(mode="json", include={"corpora", "limits"})
    bases = {source.name: source.location.base for source in recipe.sources()}
    moved = {name: absolute(base, folder) for name, base in bases.items() if not _starts_anywhere(base)}
    return canonical_json.digest([asked["corpora"], asked["limits"]["files"], *([moved] if moved else [])])[:32]


def _starts_anywhere(base: str) -> bool:
    """Whether a base means the same in every folder."""
    return "://" in base or Path(base).is_absolute()


def load_tokenizer(recipe: Recipe, folder: Path, fetcher: Fetcher) -> Tokenizer:
    """The tokenizer that the recipe names.

    Raises:
        TokenizerError: it is missing, not the pinned one, or encodes at random.
        SourceUnavailable: its host does not answer now.
    """
    url = recipe.tokenizer.url
    if url.startswith("package:"):
        path = Path(__file__).parents[1] / "tokenizers" / checked(url.removeprefix("package:"))
        if not path.is_file():
            have = ", ".join(sorted(shipped.name for shipped in path.parent.glob("*.json")))
            raise TokenizerError(f"tokenizer.url: {url} does not ship with us; these do: {have}")
        data = path.read_bytes()
    else:
        try:
            data = fetcher.read_all(absolute(url, folder), MAX_TOKENIZER_BYTES)
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


def resolve(
    recipe: Recipe, folder: Path, fetcher: Fetcher, tick: Callable[[int, int], None] = lambda done, total: None
) -> Lock:
    """Ask every host once, HEADS_AT_ONCE at a time within the fetcher's budget.

    A name that the recipe quarantines is not looked up: so an input can be left out that nobody has any more.

    Args:
        recipe: what is asked for.
        folder: where the recipe lies: relative bases start there.
        fetcher: asks, and waits between tries.
        tick: told (done, total) of every name or pattern that was looked up.

    Raises:
        RecipeError: one error for all inputs that cannot be locked; it names each.
        SourceUnavailable: the same, where another run may find them.
    """
    faults: list[_Missing] = []
    places: list[_Place] = []
    listed = functools.cache(lambda listing: listed_names(listing, fetcher))  # the sources of a corpus share one
    for source in recipe.sources():
        try:
            places.append(_place(source, folder, fetcher, recipe, listed))
        except _FAULTS as error:
            faults.append(_Missing(source, "", error))
    questions = [(place, pattern) for place in places for pattern in place.patterns]
    ticking = _Ticking(tick, len(questions))

    def look_up(question: tuple[_Place, str]) -> list[tuple[str, Facts]] | _Missing:
        place, pattern = question
        try:
            return place.matches(pattern, fetcher)
        except _FAULTS as error:
            return _Missing(place.source, pattern, error)
        finally:
            ticking.one_more()

    matching: dict[str, list[tuple[str, Facts]]] = {place.source.name: [] for place in places}
    answered = 0
    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        for (place, _), answer in zip(questions, _until_hopeless(pool, look_up, questions), strict=False):
            answered += 1
            if isinstance(answer, _Missing):
                faults.append(answer)
            else:
                matching[place.source.name] += answer
    if faults:
        raise _all_of(faults, len(questions) - answered)
    files = [file for place in places for file in _files(place, matching[place.source.name][: recipe.limits.files])]
    revisions = {place.source.name: place.commit for place in places if place.commit is not None}
    return Lock({place.source.name: place.source for place in places}, revisions, tuple(files))


@dataclass(frozen=True)
class _Place:
    """A source whose base is known: `commit` of a hub repository, and the names and patterns to look up there."""

    source: Source
    base: str
    commit: str | None
    patterns: tuple[str, ...]
    left_out: frozenset[str]

    def matches(self, pattern: str, fetcher: Fetcher) -> list[tuple[str, Facts]]:
        if pattern in self.left_out:
            return [(pattern, NOT_ASKED)]
        matching = fetcher.matches(self.base, pattern)
        if not matching:
            raise RecipeError(f"nothing at {self.base} matches {pattern!r}")
        return matching


def _place(source: Source, folder: Path, fetcher: Fetcher, recipe: Recipe, listed: _Listed) -> _Place:
    base, patterns = absolute(source.location.base, folder), tuple(source.location.files)
    if (listing := source.location.listing) is not None:
        patterns = chosen(listed(listing), patterns, listing.url)
    limit = recipe.limits.files
    if limit is not None and not any(is_pattern(base, pattern) for pattern in patterns):
        patterns = patterns[:limit]
    names = [pattern for pattern in patterns if not is_pattern(base, pattern)]
    left_out = frozenset(n for n in names if is_left_out(f"{source.name}/{n}", recipe.bad_input.quarantine))
    if not base.startswith("hf://"):
        if source.location.revision is not None:
            raise RecipeError(f"only hf:// has revisions, {base} has none")
        return _Place(source, base, None, patterns, left_out)
    place = hub_place(base)
    if place.path or place.revision:
        raise RecipeError(f"base {base}: folders go into files, revisions into revision")
    if left_out.issuperset(patterns):
        return _Place(source, base, None, patterns, left_out)
    commit = fetcher.persist(base, lambda: hub_commit(base, source.location.revision))
    return _Place(source, f"{base.rstrip('/')}@{commit}", commit, patterns, left_out)


def _files(place: _Place, matching: list[tuple[str, Facts]]) -> list[LockedFile]:
    name, paths = place.source.name, [path for path, _ in matching]
    if len(set(paths)) != len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise RecipeError(f"source {name}: files name {twice!r} twice")
    return [LockedFile(name, input_name(path), joined(place.base, path), facts) for path, facts in matching]


# ---- what cannot be locked


class _Missing(NamedTuple):
    source: Source
    pattern: str
    error: UserError | SourceUnavailable


_FAULTS = (UserError, SourceUnavailable)
MAX_NAMED = 100


class _Ticking:
    def __init__(self, tick: Callable[[int, int], None], total: int) -> None:
        self._tick, self._total, self._done, self._lock = tick, total, 0, threading.Lock()

    def one_more(self) -> None:
        with self._lock:
            self._done += 1
            self._tick(self._done, self._total)


def _until_hopeless(pool: ThreadPoolExecutor, look_up: Callable[[_Q], _A], questions: Sequence[_Q]) -> Iterator[_A]:
    """The answers in order. Where the first HEADS_AT_ONCE are all faults, the host or the base is at fault and not
    the names: the other names are not looked up."""
    first = list(pool.map(look_up, questions[:HEADS_AT_ONCE]))
    yield from first
    if not all(isinstance(answer, _Missing) for answer in first):
        yield from pool.map(look_up, questions[HEADS_AT_ONCE:])


def _all_of(faults: list[_Missing], not_asked: int) -> UserError | SourceUnavailable:
    """One error for all. Running again can only help if it can for each of them."""
    may_pass = all(isinstance(fault.error, SourceUnavailable) and not _is_ours(fault) for fault in faults)
    only = faults[0].error
    if len(faults) == 1 and (may_pass or (isinstance(only, UserError) and not isinstance(only, RecipeError))):
        return only
    lines = [_told(fault) for fault in faults[:MAX_NAMED]]
    if len(faults) > MAX_NAMED:
        lines.append(f"and {len(faults) - MAX_NAMED:,} more")
    if not_asked:
        lines.append(f"and {not_asked:,} more were not looked up, because not one of the first could be")
    names = [
        f"{fault.source.name}/{fault.pattern}"
        for fault in faults
        if fault.pattern and not is_pattern(fault.source.location.base, fault.pattern)
    ]
    if names:
        ways = " ".join(f"--quarantine '{name}'" for name in names[:3])
        lines.append(
            f"give them back, or build without them and say so in the dataset: {ways}{' …' * (len(names) > 3)}"
        )
    if may_pass:
        return SourceUnavailable(f"{len(faults):,} inputs", "\n  ".join(["", *lines]) + "\n")
    if len(faults) == 1:
        return RecipeError("; ".join(lines))
    return RecipeError("\n  ".join([f"{len(faults):,} inputs cannot be locked:", *lines]))


def _is_ours(fault: _Missing) -> bool:
    """Whether the recipe or this disk is at fault: no host will be better the next time."""
    return isinstance(fault.error, SourceUnavailable) and "://" not in fault.error.url


def _told(fault: _Missing) -> str:
    error = fault.error
    said = f"{error.url}: {error.detail}" if isinstance(error, SourceUnavailable) else str(error)
    return f"source {fault.source.name}: {said}"
