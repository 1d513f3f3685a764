"""The versions of a place for a page: what each holds, which came of which, and what was said of them later."""

from collections.abc import Mapping
from dataclasses import dataclass

from bamba_data.catalog import Listed, listed
from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import dataset_of
from bamba_data.storage.store import Store

MAX_VERSIONS = 100  # the newest; of each its manifest is read
MAX_ARGUMENT_CHARS = 500


@dataclass(frozen=True)
class Parent:
    """A version that another came of: by the digest of its manifest, and its number where this place has it."""

    manifest: str
    number: int | None


@dataclass(frozen=True)
class ShownVersion:
    """`command` is what made it: a build, or how it was derived. Counts are None where its manifest cannot be read."""

    number: int
    state: str
    newest: bool
    tags: list[str]
    manifest: str
    published_at: str
    said: str
    command: str
    arguments: dict[str, str]
    parents: list[Parent]
    documents: int | None
    tokens: int | None


@dataclass(frozen=True)
class History:
    """The newest versions, newest first, of `of`."""

    shown: list[ShownVersion]
    of: int


def history(store: Store) -> History:
    """Raises DatasetNotFound where nothing is published."""
    known = listed(store)
    numbers = {version.manifest: version.number for version in known if version.manifest}
    return History([_shown(store, version, numbers) for version in reversed(known[-MAX_VERSIONS:])], len(known))


def _shown(store: Store, version: Listed, numbers: Mapping[str, int]) -> ShownVersion:
    manifest, said = None, version.said
    if version.manifest:
        try:
            manifest = dataset_of(store, version.manifest).manifest
        except CorruptManifest as error:  # of one that has expired it goes with the next sweep, and that is no fault
            said = said or str(error)
    derived = manifest.derived if manifest else None
    return ShownVersion(
        number=version.number,
        state=version.state,
        newest=version.newest,
        tags=list(version.tags),
        manifest=version.manifest,
        published_at=version.published_at,
        said=said,
        command=derived.command if derived else "build" if manifest else "",
        arguments={name: value[:MAX_ARGUMENT_CHARS] for name, value in derived.arguments.items()} if derived else {},
        parents=[Parent(one.manifest, numbers.get(one.manifest)) for one in derived.parents] if derived else [],
        documents=manifest.totals.kept if manifest else None,
        tokens=manifest.totals.tokens if manifest else None,
    )
