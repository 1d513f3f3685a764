"""Two datasets, or more, as one: their shards as they are, their tables end to end.

What lies at another place than the result is copied there, each object checked against the digest that its tables
state; what lies there already is not.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from bamba_data import canonical_json
from bamba_data.errors import CorruptShard, DatasetNotFound, UserError
from bamba_data.format.dataset import MAX_TOKENIZER_BYTES, Dataset, open_dataset, read_named
from bamba_data.format.fence import Fence, shared
from bamba_data.format.layout import lock_path, manifest_path, table_path, tokenizer_path
from bamba_data.format.lineage import files_of_ancestors
from bamba_data.format.version_marks import known
from bamba_data.storage.store import Store, open_store
from bamba_data.terminal import say

from .committing import commit
from .dropping import Derived
from .joining import joined
from .locks import joined_lock, lock_of


def merge(
    urls: Sequence[str], out: str, copy: bool = False, tick: Callable[[int, int], None] = lambda done, total: None
) -> Derived:
    """Publish datasets as one.

    Args:
        urls: of the datasets, in the order of their blocks; each may say a version (URL@3).
        out: the place of the result: that of one of them, or an empty one.
        copy: whether shards that lie elsewhere may be copied there.
        tick: told (copied, all) after every shard that is copied.

    Raises:
        UserError: they do not fit together, `out` holds something else, or shards would have to be copied.
    """
    if len(urls) < 2:
        raise UserError("say two datasets, or more")
    store = open_store(out)
    with ExitStack() as stack:
        fences = {place: stack.enter_context(shared(open_store(place), say=say)) for place in _places(urls, store)}
        parents = [open_dataset(url) for url in urls]
        if len({(parent.store.url, parent.manifest.digest) for parent in parents}) < len(parents):
            raise UserError("a dataset is named twice: every document of it would be there twice")
        _check_place(store, parents)
        elsewhere = [parent for parent in parents if parent.store.url != store.url]
        if elsewhere and not copy:
            raise UserError(
                f"{', '.join(parent.store.url for parent in elsewhere)} lie elsewhere than the result, {store.url}: to "
                "copy their shards there, say --copy"
            )
        arguments = {"datasets": ", ".join(parent.manifest.digest for parent in parents)}
        lock = joined_lock([lock_of(parent) for parent in parents])
        manifest = joined(store, parents, "merge", arguments, parents)
        for parent in elsewhere:
            _copy(parent, store, tick)
        fence: Fence = fences[store.url]
        store.put(lock_path(lock.digest), canonical_json.dumps(lock.to_json()))
        fresh = {path for parent in elsewhere for path in parent.shards["path"]}
        newest = next((parent.version.number for parent in parents if parent.store.url == store.url), None)
        version = commit(store, manifest, lock.digest, fence, newest if _asks_newest(urls) else None, fresh)
    return Derived(version, manifest, 0, 0)


def _places(urls: Sequence[str], store: Store) -> list[str]:
    return list(dict.fromkeys([*(open_dataset(url).store.url for url in urls), store.url]))


def _asks_newest(urls: Sequence[str]) -> bool:
    return not any("@" in url.rsplit("/", 1)[-1] for url in urls)


def _check_place(store: Store, parents: Sequence[Dataset]) -> None:
    if known(store).numbers and all(parent.store.url != store.url for parent in parents):
        raise UserError(f"{store.url}: another dataset is published here: name an empty place, or one of the datasets'")


def _copy(parent: Dataset, store: Store, tick: Callable[[int, int], None]) -> None:
    """Everything that a version names but its own record, into another store, with the manifests and tables of what it
    came of: a run that began with one of these goes on with the result."""
    manifest = parent.manifest
    small = {
        (manifest_path(manifest.digest), len(manifest.data), manifest.digest),
        (tokenizer_path(manifest.tokenizer.sha256), MAX_TOKENIZER_BYTES, manifest.tokenizer.sha256),
        *((table_path(table.sha256), table.size_bytes, table.sha256) for table in manifest.all_tables),
        *files_of_ancestors(parent),
    }
    for path, max_bytes, digest in sorted(small):
        store.put(path, read_named(parent.store, path, digest, max_bytes))
    named = [
        (path, digest, size)
        for frame in (parent.shards, parent.dead_letters)
        for path, digest, size in frame.select("path", "sha256", "size_bytes").iter_rows()
    ]
    for done, (path, digest, size) in enumerate(named, 1):
        there = store.stat(path)
        if there is None or there.size_bytes != size:
            try:
                data = parent.store.read(path)
            except FileNotFoundError:
                raise DatasetNotFound(f"{parent.store.url}/{path} is missing; verify tells what else is") from None
            if canonical_json.sha256(data) != digest:
                raise CorruptShard(f"{parent.store.url}/{path}", "its sha256 is not the manifest's")
            store.put(path, data)
        tick(done, len(named))
