"""The locks of datasets that become one."""

from collections.abc import Sequence

from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import lock_path
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock


def lock_of(dataset: Dataset) -> Lock:
    """The lock that a version was built from, of the inputs that it has still. Raises CorruptManifest."""
    lock = locks.loads(dataset.lock_json(), f"{dataset.store.url}/{lock_path(dataset.version.lock)}")
    inputs = set(dataset.files.select("source", "path").iter_rows())
    names = [source.name for source in dataset.manifest.sources]
    return Lock(
        {name: lock.sources[name] for name in names if name in lock.sources},
        {name: commit for name, commit in lock.revisions.items() if name in names},
        tuple(file for file in lock.files if (file.source, file.path) in inputs),
    )


def joined_lock(parts: Sequence[Lock]) -> Lock:
    """One lock of all files; of a source that several have, what the first says of it, and the last commit."""
    sources = {name: source for part in reversed(parts) for name, source in part.sources.items()}
    revisions = {name: commit for part in parts for name, commit in part.revisions.items()}
    order = list(dict.fromkeys(name for part in parts for name in part.sources))
    files = tuple(file for name in order for part in parts for file in part.by_source.get(name, []))
    return Lock({name: sources[name] for name in order}, revisions, files)
