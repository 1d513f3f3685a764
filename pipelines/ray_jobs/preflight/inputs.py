"""Whether the tokenizer, and the first bytes of one input of every corpus, can be read."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bamba_data.errors import BambaError
from bamba_data.filtering.transform_source import pinned, unlike_locked
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Recipe
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile

from .finding import Finding, judged, missing, ok
from .network import host_of, urls_of

RETRY_SECONDS = 10.0
FIRST_BYTES = 1 << 16
INPUTS_WAY_OUT = "its base, a token for it, or a mirror (bamba-data download, --mirror)"
TRANSFORM_WAY_OUT = "transform: the module's file beside the recipe, its packages installed (docs/inputs.md)"
TOKENIZER_WAY_OUT = "tokenizer.url: a place that the cluster reaches"


@dataclass(frozen=True)
class Mirror:
    """Where a mirror is, and what reads the lock that it was made under: (recipe, folder, url)."""

    url: str
    lock: Callable[[Recipe, Path, str], Lock]


def inputs(recipe: Recipe, folder: Path, silent: set[str], mirror: Mirror | None = None) -> Iterator[Finding]:
    """`silent` are hosts (`name:port`) that do not answer: they are not asked, for retries would only take time. With a
    mirror its files are read, and no host is asked for inputs."""
    fetcher = Fetcher(retry_seconds=RETRY_SECONDS)
    yield _tokenizer(recipe, folder, fetcher, silent)
    yield from _packages(recipe)
    if mirror:
        yield from _mirrored(recipe, folder, fetcher, mirror)
        return
    if any(url.startswith("hf://") for url in urls_of(recipe)) and not os.environ.get("HF_TOKEN"):
        detail = "none: 10 requests a second, public repositories only"
        yield judged("hub token", False, detail, "the secret bamba-hub", otherwise="note")
    for corpus in recipe.corpora:
        check = f"inputs of {corpus.corpus}"
        if host := _silent_host([source.location.base for source in corpus.sources()], silent):
            yield missing(check, f"not asked for: {host} was not reached", INPUTS_WAY_OUT)
            continue
        limits = recipe.limits.model_copy(update={"files": 1})
        try:
            lock = locks.resolve(recipe.model_copy(update={"corpora": [corpus], "limits": limits}), folder, fetcher)
            yield ok(check, f"{len(lock.sources)} sources; {_first_bytes(lock.files[0], fetcher)}")
        except (BambaError, OSError) as error:
            yield missing(check, str(error), INPUTS_WAY_OUT)


def _mirrored(recipe: Recipe, folder: Path, fetcher: Fetcher, mirror: Mirror) -> Iterator[Finding]:
    way_out = (
        f"a finished mirror of this recipe: bamba-data download {recipe.name} --out {mirror.url}, and rights to read it"
    )
    try:
        lock = mirror.lock(recipe, folder, mirror.url).moved_to(mirror.url)
    except (BambaError, OSError) as error:
        yield missing("mirror", str(error), way_out)
        return
    files = [file for file in lock.files if file.facts.sha256]
    yield ok("mirror", f"{len(files):,} files at {mirror.url}, every sha256 known")
    for corpus in recipe.corpora:
        check, sources = f"inputs of {corpus.corpus}", {source.name for source in corpus.sources()}
        first = next((file for file in files if file.source in sources), None)
        try:
            yield ok(check, _first_bytes(first, fetcher) if first else "all in quarantine")
        except (BambaError, OSError) as error:
            yield missing(check, str(error), way_out)


def _first_bytes(file: LockedFile, fetcher: Fetcher) -> str:
    with fetcher.open(file) as opened:
        return f"{file.key}: {len(opened.read(FIRST_BYTES)):,} bytes read of it"


def _tokenizer(recipe: Recipe, folder: Path, fetcher: Fetcher, silent: set[str]) -> Finding:
    url = recipe.tokenizer.url
    if host := _silent_host([url], silent):
        return missing("tokenizer", f"{url}: not asked for, {host} was not reached", TOKENIZER_WAY_OUT)
    try:
        tokenizer = locks.load_tokenizer(recipe, folder, fetcher)
        tokenizer.check(recipe.tokenizer.backend)
    except BambaError as error:
        return missing("tokenizer", str(error), TOKENIZER_WAY_OUT)
    return ok("tokenizer", f"{url}: {tokenizer.vocab_size:,} ids")


def transforms(recipe: Recipe, folder: Path) -> tuple[list[Finding], Recipe]:
    """Whether the functions of transforms can be had; and the recipe, with their sources and packages pinned where they
    can."""
    used = [corpus.transform for corpus in recipe.corpora if corpus.transform]
    try:
        recipe = pinned(recipe, folder).recipe
    except BambaError as error:
        return [missing("transforms", str(error), TRANSFORM_WAY_OUT)], recipe
    return [ok("transforms", "; ".join(rule.function for rule in used))] if used else [], recipe


def _packages(recipe: Recipe) -> Iterator[Finding]:
    """Of pinned transforms. Their sources are not looked for: they travel with the units."""
    rules = [corpus.transform for corpus in recipe.corpora if corpus.transform and corpus.transform.sha256]
    for rule in rules:
        yield judged(
            f"packages of {rule.function}",
            unlike_locked(rule) is None,
            unlike_locked(rule) or ", ".join(rule.packages) or "none",
            "the same versions on every node, and where the build is started: one image",
        )


def _silent_host(urls: list[str], silent: set[str]) -> str | None:
    return next((host for url in urls if (host := host_of(url)) and host in silent), None)
