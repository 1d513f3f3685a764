"""Two datasets, or more, as one: their shards as they are, their tables end to end.

What lies at another place than the result is copied there, each object checked against the digest that its tables
state; or it stays there, and the result refers to it (see format/referring.py). The user says which. What lies there
already is neither.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import polars as pl

from bamba_data import canonical_json
from bamba_data.errors import CorruptShard, DatasetNotFound, UserError
from bamba_data.format.dataset import MAX_TOKENIZER_BYTES, Dataset, open_dataset, read_named
from bamba_data.format.fence import Fence, shared
from bamba_data.format.layout import lock_path, manifest_path, table_path, tokenizer_path
from bamba_data.format.lineage import files_of_ancestors
from bamba_data.format.referring import unreachable
from bamba_data.format.version_marks import known
from bamba_data.storage.store import Store, open_store
from bamba_data.terminal import say

from .committing import commit
from .dropping import Derived
from .joining import joined
from .locks import joined_lock, lock_of
from .saving import files_of


def merge(
    urls: Sequence[str],
    out: str,
    copy: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
    refer: bool = False,
) -> Derived:
    """Publish datasets as one.

    Args:
        urls: of the datasets, in the order of their blocks; each may say a version (URL@3).
        out: the place of the result: that of one of them, or an empty one.
        copy: whether shards that lie elsewhere are copied there.
        tick: told (copied, all) after every shard that is copied.
        refer: whether they stay where they are instead, and are read there.

    Raises:
        UserError: they do not fit together, `out` holds something else, or shards lie elsewhere and nobody said whether
            to copy them, or cannot be referred to.
    """
    if len(urls) < 2:
        raise UserError("say two datasets, or more")
    if copy and refer:
        raise UserError("--copy brings the shards of other places, --refer leaves them there: say one")
    store = open_store(out)
    with ExitStack() as stack:
        # While nothing is read for long, a sweep there changes no more than one that comes later: no fence is needed,
        # and no right to write.
        places = [store.url] if refer else _places(urls, store)
        fences = {place: stack.enter_context(shared(open_store(place), say=say)) for place in places}
        parents = [open_dataset(url) for url in urls]
        if len({(parent.store.url, parent.manifest.digest) for parent in parents}) < len(parents):
            raise UserError("a dataset is named twice: every document of it would be there twice")
        _check_place(store, parents)
        elsewhere = [parent for parent in parents if parent.store.url != store.url]
        if elsewhere and not copy and not refer:
            raise UserError(
                f"{', '.join(parent.store.url for parent in elsewhere)} lie elsewhere than the result, {store.url}: to "
                "copy their shards there, say --copy; to leave them where they are, and read them there, say --refer"
            )
        where = _elsewhere(store, parents, refer)
        arguments = {"datasets": ", ".join(parent.manifest.digest for parent in parents)}
        lock = joined_lock([lock_of(parent) for parent in parents])
        manifest = joined(store, parents, "merge", arguments, parents, where)
        for parent in elsewhere:
            _copy(parent, store, tick, with_shards=copy)
        fence: Fence = fences[store.url]
        store.put(lock_path(lock.digest), lock.data)
        fresh = {path for parent in elsewhere for path in parent.shards["path"]}
        say_of = ", ".join(sorted(set(where["store"])))
        if say_of and refer:
            say(f"{store.url} refers to shards in {say_of}: tag the versions there, so that nobody expires them")
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


def _elsewhere(store: Store, parents: Sequence[Dataset], refer: bool) -> pl.DataFrame:
    """Which files the result reads in other stores. What a dataset of its own place refers to, it refers to, too."""
    frames = [parents[0].elsewhere.clear()]
    for parent in parents:
        if parent.store.url != store.url and not refer:
            continue  # all is copied
        known = parent.elsewhere
        if parent.is_whole and parent.store.url != store.url:
            known = known.clear()
        frames.append(known)
        if parent.store.url != store.url:
            referred = set(known["path"])
            own = [path for path in sorted(files_of(parent)) if path not in referred]
            frames.append(pl.DataFrame({"path": own, "store": [parent.store.url] * len(own)}, schema=known.schema))
    where = pl.concat(frames)
    for url in where["store"].unique():
        if (why := unreachable(store, url)) is not None and url != store.url:
            raise UserError(f"--refer: {why}: say --copy")
    return where


def _copy(parent: Dataset, store: Store, tick: Callable[[int, int], None], with_shards: bool) -> None:
    """Everything that a version names but its own record, into another store, with the manifests and tables of what it
    came of: a run that began with one of these goes on with the result. Shards and dead letters if that is said."""
    manifest = parent.manifest
    small = {
        (manifest_path(manifest.digest), len(manifest.data), manifest.digest),
        (tokenizer_path(manifest.tokenizer.sha256), MAX_TOKENIZER_BYTES, manifest.tokenizer.sha256),
        *((table_path(table.sha256), table.size_bytes, table.sha256) for table in manifest.all_tables),
        *files_of_ancestors(parent),
    }
    for path, max_bytes, digest in sorted(small):
        store.put(path, read_named(parent.store, path, digest, max_bytes))
    if not with_shards:
        return
    named = [
        (path, digest, size)
        for frame in (parent.shards, parent.dead_letters)
        for path, digest, size in frame.select("path", "sha256", "size_bytes").iter_rows()
    ]
    for done, (path, digest, size) in enumerate(named, 1):
        there = store.stat(path)
        if there is None or there.size_bytes != size:
            try:
                data = parent.files_store.read(path)
            except FileNotFoundError:
                raise DatasetNotFound(f"{parent.store.url}/{path} is missing; verify tells what else is") from None
            if canonical_json.sha256(data) != digest:
                raise CorruptShard(f"{parent.store.url}/{path}", "its sha256 is not the manifest's")
            store.put(path, data)
        tick(done, len(named))
