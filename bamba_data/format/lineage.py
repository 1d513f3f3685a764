"""Where a version comes from: the manifests that it was derived from, and theirs, as far as they lie in its store."""

from collections.abc import Iterator
from typing import NamedTuple

from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import Dataset, dataset_of
from bamba_data.format.layout import manifest_path, table_path

MAX_STEPS = 10_000  # of a chain; digests cannot form a circle, but a store can be made to hold any number


def ancestors(dataset: Dataset) -> Iterator[Dataset]:
    """Parents first, then theirs, each once. What another store has, or a sweep has taken, is passed over."""
    waiting = _parents(dataset)
    seen: set[str] = set()
    while waiting and len(seen) < MAX_STEPS:
        digest = waiting.pop(0)
        if digest in seen:
            continue
        seen.add(digest)
        try:
            parent = dataset_of(dataset.store, digest)
        except CorruptManifest:
            continue
        yield parent
        waiting += _parents(parent)


def parents_of(dataset: Dataset) -> Iterator[Dataset]:
    """The versions that a dataset was derived from directly, as far as they lie in its store."""
    for digest in _parents(dataset):
        try:
            yield dataset_of(dataset.store, digest)
        except CorruptManifest:
            continue


class LineageFile(NamedTuple):
    """A manifest or a table of an ancestor: its path in the store, its size, and the digest that names it."""

    path: str
    size_bytes: int
    sha256: str


def files_of_ancestors(dataset: Dataset) -> Iterator[LineageFile]:
    """What must lie beside a version wherever it goes, so that a run that began with an ancestor can go on with it: the
    manifests and tables of all of them, but no shard."""
    for parent in ancestors(dataset):
        manifest = parent.manifest
        yield LineageFile(manifest_path(manifest.digest), len(manifest.data), manifest.digest)
        for table in manifest.all_tables:
            yield LineageFile(table_path(table.sha256), table.size_bytes, table.sha256)


def _parents(dataset: Dataset) -> list[str]:
    derived = dataset.manifest.derived
    return [parent.manifest for parent in derived.parents] if derived else []
