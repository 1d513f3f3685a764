"""Where a version comes from: the manifests that it was derived from, and theirs, as far as they lie in its store."""

from collections.abc import Iterator

from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import Dataset, dataset_of

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


def _parents(dataset: Dataset) -> list[str]:
    derived = dataset.manifest.derived
    return [parent.manifest for parent in derived.parents] if derived else []
