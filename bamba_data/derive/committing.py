"""A derived version becomes real: verified, and published on top of the version that it was made from."""

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from bamba_data.card.refresh import refresh_and_say
from bamba_data.errors import IntegrityError, PublishConflict, UserError
from bamba_data.format import manifest as manifests
from bamba_data.format import version_marks
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.fence import Fence, shared
from bamba_data.format.manifest import Manifest
from bamba_data.format.versions import Version, publish, published
from bamba_data.inspect.verify import check
from bamba_data.storage.store import Store, open_store
from bamba_data.terminal import say

SHOWN = 5


@contextmanager
def parent_held(url: str, version: str | None = None) -> Iterator[tuple[Dataset, Fence]]:
    """The version that another is to be derived from, opened under the fence of its place."""
    store = open_dataset(url, version).store
    with shared(store, say=say) as fence:
        yield open_dataset(url, version), fence


def commit(
    store: Store,
    manifest: Manifest,
    lock: str,
    fence: Fence,
    newest: int | None = None,
    fresh_shards: Collection[str] = (),
    parent: Dataset | None = None,
) -> Version:
    """Publish a derived version.

    Args:
        store: where its tables and shards lie already.
        manifest: of it.
        lock: digest of the lock of its inputs, which lies there.
        fence: of the place, held since the parents were opened.
        newest: the number of the version that it stands for from now on: if another was published since, what that one
            changed would be lost. None where the caller named the parent's version himself.
        fresh_shards: paths of the shards that no published version has yet: they are looked at.
        parent: a version of this place, opened under the fence: files of tables that the derived one has of it were
            checked when they were read, and are not read again.

    Raises:
        PublishConflict: another version was published meanwhile.
        IntegrityError: what was made does not verify; nothing was published.
    """

    def verified() -> None:
        fence.check()
        draft = Dataset(
            store,
            Version(0, manifest.digest, "", lock, ""),
            manifests.loads(manifest.data, "the manifest"),
            dict(parent.frames) if parent and parent.store.url == store.url else {},
        )
        if faults := check(draft, only=frozenset(fresh_shards)).faults:
            raise IntegrityError(f"{'; '.join(map(str, faults[:SHOWN]))}. Nothing was published")
        offered = version_marks.known(store).offered
        if newest is not None and offered[-1:] != [newest]:
            raise PublishConflict(offered[-1], manifest.digest, published(store, offered[-1]).manifest)
        fence.check()

    version = publish(store, manifest, secrets.token_hex(8), lock, verified)
    refresh_and_say(store)
    return version


def nothing_left(where: str) -> UserError:
    return UserError(f"{where}: no document would be left; withdraw the version instead (bamba-data withdraw)")


def newest_expected(url: str, version: str | None, parent: Dataset) -> int | None:
    """What `commit` is told: the parent's number where the newest version was asked for, not a certain one."""
    return parent.version.number if version is None and open_store(url).url == parent.store.url else None
