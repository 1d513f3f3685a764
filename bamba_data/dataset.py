"""A published dataset, opened: its version, its manifest, and its tables as Polars frames.

Every byte of manifest and tables is checked against the digest that names it before it is parsed.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bamba_data import canonical
from bamba_data import manifest as manifests
from bamba_data.errors import CorruptManifest
from bamba_data.manifest import Manifest, TableEntry
from bamba_data.publish import Version, read_version
from bamba_data.store import Store, open_store

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Dataset:
    store: Store
    version: Version
    manifest: Manifest

    @cached_property
    def files(self) -> "pl.DataFrame":
        return self._table("files", self.manifest.tables.files)

    @cached_property
    def shards(self) -> "pl.DataFrame":
        return self._table("shards", self.manifest.tables.shards)

    @cached_property
    def blocks(self) -> "pl.DataFrame":
        return self._table("blocks", self.manifest.tables.blocks)

    @cached_property
    def dead_letters(self) -> "pl.DataFrame":
        return self._table("dead_letters", self.manifest.tables.dead_letters)

    def shard_urls(self, source: str | None = None) -> list[str]:
        """Where the shards lie: what to give to Polars, DuckDB, datasets or pandas."""
        frame = self.shards if source is None else self.shards.filter(self.shards["source"] == source)
        return [f"{self.store.url}/{path}" for path in frame["path"]]

    def tokenizer_json(self) -> bytes:
        """The tokenizer file itself: a dataset carries its own."""
        path = tokenizer_path(self.manifest.tokenizer.sha256)
        data = self.store.read(path)
        if canonical.sha256(data) != self.manifest.tokenizer.sha256:
            raise CorruptManifest(path, "does not have the sha256 of its name")
        return data

    def _table(self, name: str, entry: TableEntry) -> "pl.DataFrame":
        import polars as pl
        import pyarrow.parquet as pq

        from bamba_data.tables import SCHEMAS

        path = manifests.table_path(entry.sha256)
        try:
            data = self.store.read(path)
        except FileNotFoundError:
            raise CorruptManifest(path, f"the table of {name} is missing") from None
        if len(data) != entry.size_bytes or canonical.sha256(data) != entry.sha256:
            raise CorruptManifest(path, f"the table of {name} does not have the sha256 of its name")
        if not pq.read_schema(io.BytesIO(data)).equals(SCHEMAS[name]):
            raise CorruptManifest(path, f"the table of {name} does not have the columns of one")
        frame = pl.read_parquet(io.BytesIO(data))
        if len(frame) != entry.rows:
            raise CorruptManifest(path, f"the table of {name} has {len(frame)} rows, the manifest says {entry.rows}")
        return frame


def tokenizer_path(sha256: str) -> str:
    return f"_bamba/tokenizers/{sha256}.json"


def open_dataset(url: str, version: int | None = None) -> Dataset:
    """The newest version at `url`, or the given one."""
    store = open_store(url)
    found = read_version(store, version)
    path = manifests.path_of(found.manifest)
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise CorruptManifest(path, f"is missing, though version {found.number} names it") from None
    if canonical.sha256(data) != found.manifest:
        raise CorruptManifest(path, "does not have the sha256 of its name")
    return Dataset(store, found, manifests.loads(data, path))
