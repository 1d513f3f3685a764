"""What a lock has frozen, and what lies there now: for people who add files and run the same command again.

A build reads what was locked, whatever came since. That must be said: which inputs are frozen and since when, which
were added, removed or changed, and that `--relock` takes them in. Only what a listing tells is compared, a request for
a thousand files; sources of which every file would have to be asked for (plain https) are named as not compared.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bamba_data.errors import BambaError
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Recipe
from bamba_data.sources.base import Source
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import NOT_ASKED
from bamba_data.storage.transport import is_glob

SHOWN = 3


@dataclass(frozen=True)
class Changes:
    """Inputs by key, `<source>/<path>`; `revisions` are (source, locked commit, commit now). `unseen` are the sources
    that were not compared, each with the reason."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    revisions: list[tuple[str, str, str]]
    unseen: dict[str, str]

    @property
    def any(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.revisions)

    def __str__(self) -> str:
        """In words; empty where nothing changed."""
        lists = [("added", self.added), ("removed", self.removed), ("changed", self.changed)]
        parts = [f"{len(keys):,} {verb} ({_some(keys)})" for verb, keys in lists if keys]
        parts += [f"{name} is at {now[:12]} now, locked at {then[:12]}" for name, then, now in self.revisions]
        return ", ".join(parts)


def changes(lock: Lock, recipe: Recipe, folder: Path, fetcher: Fetcher) -> Changes:
    """What a new lock of the recipe would have otherwise, as far as listings tell. Never raises: what cannot be asked
    now is named in `unseen`."""
    drift = Changes([], [], [], [], {})
    for corpus in recipe.corpora:
        sources = corpus.sources()
        names = [source.name for source in sources]
        if not all(map(_is_listed, sources)):
            drift.unseen.update(dict.fromkeys(names, "its files would have to be asked for one by one"))
            continue
        try:
            fresh = locks.resolve(recipe.model_copy(update={"corpora": [corpus]}), folder, fetcher)
        except (BambaError, OSError) as error:
            drift.unseen.update(dict.fromkeys(names, str(error)))
            continue
        for name in names:
            _compare(lock, fresh, name, drift)
    return drift


def said(lock: Lock, digest: str, locked_at: float, drift: Changes | None) -> str:
    """A line for people. `locked_at` is in seconds by the store's clock."""
    when = datetime.datetime.fromtimestamp(locked_at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    line = f"the inputs are frozen: {len(lock.files):,} files, locked {when} as {digest[:16]}"
    if drift is None:
        return line
    if drift.any:
        line += f". Since then: {drift}. This run reads what was locked; --relock takes in what is there now"
    if drift.unseen:
        names = list(drift.unseen)
        line += f". Not compared: {_some(names)} ({drift.unseen[names[0]]})"
    return line


def _is_listed(source: Source) -> bool:
    """Whether one listing tells what there is."""
    base = source.location.base
    if base.startswith(("http://", "https://")):
        return False
    return "://" not in base or all(map(is_glob, source.location.files))


def _compare(lock: Lock, fresh: Lock, name: str, drift: Changes) -> None:
    then, now = lock.revisions.get(name), fresh.revisions.get(name)
    if then and now and then != now:
        drift.revisions.append((name, then, now))
    before = {file.path: file for file in lock.by_source.get(name, [])}
    after = {file.path: file for file in fresh.by_source[name]}
    drift.added.extend(after[path].key for path in after if path not in before)
    drift.removed.extend(before[path].key for path in before if path not in after)
    for path in before:
        if path in after:
            old, new = before[path].facts, after[path].facts
            if NOT_ASKED not in (old, new) and (old.size_bytes, old.etag) != (new.size_bytes, new.etag):
                drift.changed.append(before[path].key)


def _some(names: list[str]) -> str:
    def each() -> Iterator[str]:
        yield from names[:SHOWN]
        if len(names) > SHOWN:
            yield f"and {len(names) - SHOWN:,} more"

    return ", ".join(each())
