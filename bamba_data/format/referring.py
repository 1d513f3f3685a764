"""Shards that a dataset names and does not hold: they lie in the store of another dataset, and are read there.

The table `elsewhere` has a row for each such file, `path` and the absolute address of its `store`. A dataset that was
copied as a whole (a push to a hub, its pull) holds them after all, and is read by itself: whether it does is told by
the first file of each store. What is read has the digests of our manifest, so it does not matter who holds it; but
nobody there knows that we need it. What is gone there is an error that says who must act.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn

from bamba_data.cached_property import cached_property
from bamba_data.errors import CorruptManifest, ReferredFileMissing
from bamba_data.storage.store import Entry, LocalStore, Store, open_store

#: Of the table: path of a file, and the address of the store where it lies.
Elsewhere = Mapping[str, str]


class ReferringStore(Store):
    """A store to read the files of a dataset from: those that lie elsewhere are read there, all others at home.
    Nothing is written through it. What is missing elsewhere is a ReferredFileMissing."""

    def __init__(self, home: Store, elsewhere: Elsewhere) -> None:
        """Raises CorruptManifest for addresses that mean nothing here."""
        self.url, self._home, self._elsewhere = home.url, home, elsewhere
        self._stores: dict[str, Store] = {}
        for url in dict.fromkeys(elsewhere.values()):
            check_address(home, url)

    @cached_property
    def _copied(self) -> frozenset[str]:
        """The stores whose files lie at home after all."""
        first: dict[str, str] = {}
        for path, url in self._elsewhere.items():
            first.setdefault(url, path)
        return frozenset(url for url, path in first.items() if self._home.stat(path) is not None)

    @property
    def is_whole(self) -> bool:
        """Whether all files lie at home."""
        return self._copied.issuperset(self._elsewhere.values())

    def place_of(self, path: str) -> Store:
        """Where a file lies."""
        url = self._elsewhere.get(path)
        if url is None or url in self._copied:
            return self._home
        return self._stores.setdefault(url, open_store(url))

    def elsewhere(self) -> dict[str, Store]:
        """The other stores from which files are read, by address."""
        return {url: open_store(url) for url in dict.fromkeys(self._elsewhere.values()) if url not in self._copied}

    def read(self, path: str) -> bytes:
        with self._named(path):
            return self.place_of(path).read(path)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        with self._named(path):
            return self.place_of(path).read_range(path, start, end)

    def open(self, path: str) -> BinaryIO:
        with self._named(path):
            return self.place_of(path).open(path)

    def stat(self, path: str) -> Entry | None:
        return self.place_of(path).stat(path)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Of home alone."""
        return self._home.list(prefix)

    def put(self, path: str, data: bytes) -> NoReturn:
        raise AssertionError("files of a dataset are read through this store, never written")

    def create(self, path: str, data: bytes) -> NoReturn:
        self.put(path, data)

    def writer(self, path: str) -> NoReturn:
        self.put(path, b"")

    def delete(self, path: str) -> NoReturn:
        self.put(path, b"")

    @contextlib.contextmanager
    def _named(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            place = self.place_of(path)
            if place is self._home:
                raise
            raise ReferredFileMissing(path, place.url, self.url) from None


def check_address(home: Store, url: str) -> None:
    """Raises CorruptManifest for a store that a dataset at `home` cannot refer to: one that is named by a path that
    starts anywhere, or a disk where home is none, since every machine has a disk of its own."""
    if (why := unreachable(home, url)) is not None:
        raise CorruptManifest("the table elsewhere", why)


def unreachable(home: Store, url: str) -> str | None:
    """Why a dataset at `home` cannot refer to a store; None where it can."""
    if url.startswith("s3://"):
        return None
    if "://" in url or not Path(url).is_absolute():
        return f"{url!r} is neither s3://… nor an absolute path"
    if not isinstance(home, LocalStore):
        return f"{url} is a folder of one machine, and {home.url} is read by others"
    return None
