"""A published dataset, opened: its version, its manifest, and its tables as Polars frames.

Every byte of manifest and tables is checked against the digest that names it before it is parsed.
"""

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import CorruptManifest, UserError
from bamba_data.format import manifest as manifests
from bamba_data.format.identity import SourceIdentity, of_dataset, of_tables
from bamba_data.format.layout import VERSIONS, lock_path, manifest_path, table_path, tokenizer_path
from bamba_data.format.manifest import FIRST_FORMAT, REFERRING_FORMAT, Manifest
from bamba_data.format.manifest_entries import TableEntry
from bamba_data.format.referring import ReferringStore
from bamba_data.format.versions import Version, read_version
from bamba_data.records import Record
from bamba_data.storage.paths import checked, distinct
from bamba_data.storage.store import Store, open_store

if TYPE_CHECKING:
    import polars as pl

    from bamba_data.format.masks import AsRead

MAX_TOKENIZER_BYTES = 256 << 20
MAX_LOCK_BYTES = 1 << 30
_BARE_POINTER = re.compile(rb"\s*[0-9a-f]{64}\s*")
#: Of shards, as Polars has expressions: all that match are `checked`, and `distinct` if they are in small letters.
_PLAIN_PATH = r"\Adataset=[0-9A-Za-z_-]{1,200}/[0-9a-f]{1,64}-[0-9]{1,20}-[0-9a-f]{1,64}\.parquet\z"
RELOCK = "resolve the inputs anew with --relock: if they are unchanged, so is the lock, and nothing is made again"


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset. Its tables are read when they are asked for, and checked before they are parsed:
    CorruptManifest if one is damaged or missing.

    Attributes:
        store: its place.
        version: which publication, by whom and when.
        manifest: what it is made of.
        frames: the files of its tables that were read and checked already, by name and entry.
    """

    store: Store
    version: Version
    manifest: Manifest
    frames: "dict[tuple[str, TableEntry], pl.DataFrame]" = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """Another process gets the tables that were asked for, once."""
        return {name: value for name, value in self.__dict__.items() if name != "files_store"} | {"frames": {}}

    @property
    def identity(self) -> str:
        """What the dataset is, whoever wrote it: see identity.py."""
        tokenizer = self.manifest.tokenizer
        return self.manifest.identity or of_dataset(tokenizer.sha256, tokenizer.token_dtype, self.identities)

    @cached_property
    def identities(self) -> dict[str, SourceIdentity]:
        """Of every source: as the manifest states them, or in the first format as its tables have them."""
        if self.manifest.format == FIRST_FORMAT:
            return self.identities_of_tables
        return {
            source.name: SourceIdentity(source.identity.content, source.identity.document_ids)
            for source in self.manifest.sources
            if source.identity
        }

    @cached_property
    def identities_of_tables(self) -> dict[str, SourceIdentity]:
        return of_tables([source.name for source in self.manifest.sources], *self.as_read)

    @cached_property
    def as_read(self) -> "AsRead":
        """The tables of blocks and candidates without what is masked: what readers of rows see."""
        from bamba_data.format.masks import AsRead, as_read

        if self.manifest.derived is None:
            return AsRead(self.blocks, self.candidates)
        return as_read(self.blocks, self.candidates, self.masks)

    @cached_property
    def files(self) -> "pl.DataFrame":
        """One row an input; the columns of all tables are described in tables.py."""
        return self._table("files")

    @cached_property
    def shards(self) -> "pl.DataFrame":
        """The first format says `file` by its place in the source: from 0."""
        import polars as pl

        frame = _safe(self._table("shards"))
        return frame if "first_file" in frame.columns else frame.with_columns(first_file=pl.lit(0, pl.UInt32))

    @cached_property
    def blocks(self) -> "pl.DataFrame":
        """One row a block, in the order of the shards and of the blocks in them."""
        return self._table("blocks")

    @cached_property
    def candidates(self) -> "pl.DataFrame":
        """One row a document that may be held out of training."""
        return self._table("candidates")

    @cached_property
    def dead_letters(self) -> "pl.DataFrame":
        """One row a file of records that could not become documents, with their raw bytes."""
        return _safe(self._table("dead_letters"))

    @cached_property
    def masks(self) -> "pl.DataFrame":
        """One row a block that has lost documents (see masks.py); none in what a build published."""
        import polars as pl

        from bamba_data.format.tables import MASKS

        if self.manifest.derived is None:
            empty = pl.from_arrow(MASKS.empty_table())
            assert isinstance(empty, pl.DataFrame)
            return empty
        return self._read_table("masks", self.manifest.derived.masks)

    @cached_property
    def elsewhere(self) -> "pl.DataFrame":
        """One row a file that lies in another store (see referring.py): `path`, and the address of the `store`."""
        import polars as pl

        derived = self.manifest.derived
        if derived is None or derived.elsewhere is None:
            return pl.DataFrame(schema={"path": pl.String, "store": pl.String})
        return self._read_table("elsewhere", derived.elsewhere)

    @cached_property
    def files_store(self) -> Store:
        """What to read shards and dead letters through: the place itself, or, where some lie elsewhere, a
        ReferringStore. Manifests, tables, lock and tokenizer lie in `store`, always."""
        if self.manifest.format != REFERRING_FORMAT:
            return self.store
        return ReferringStore(self.store, dict(self.elsewhere.iter_rows()))

    @property
    def is_whole(self) -> bool:
        """Whether all of its files lie in `store`."""
        return not isinstance(self.files_store, ReferringStore) or self.files_store.is_whole

    def shard_urls(self, source: str | None = None, *, with_dropped: bool = False) -> list[str]:
        """Where the shards lie: what to give to Polars, DuckDB, datasets or pandas. (Not `dataset=*/*.parquet`: that
        also finds the shards of other versions, and what a killed build left.)

        Args:
            source: the shards of this one alone.
            with_dropped: although documents of these files were dropped, which whoever reads the files sees.

        Raises:
            UserError: documents of these files were dropped, and `with_dropped` does not say that it is known.
        """
        masked = self.masks if source is None else self.masks.filter(self.masks["source"] == source)
        if len(masked) and not with_dropped:
            raise UserError(
                f"{self.store.url}: documents in {len(masked):,} blocks of these files were dropped, and a reader of "
                "the files alone would see them: write the files anew (bamba-data compact), leave out what "
                "Dataset.dropped_rows() lists, or say with_dropped=True"
            )
        frame = self.shards if source is None else self.shards.filter(self.shards["source"] == source)
        store = self.files_store
        if not isinstance(store, ReferringStore):
            return [f"{store.url}/{path}" for path in frame["path"]]
        return [f"{store.place_of(path).url}/{path}" for path in frame["path"]]

    def dropped_rows(self) -> "pl.DataFrame":
        """The rows of shards that are no longer part of the dataset: `path` of the shard, and `row` in it, from 0."""
        import numpy as np
        import polars as pl

        from bamba_data.format.masks import removed_in

        first = self.blocks.select(
            "shard", "block", (pl.col("documents").cum_sum() - pl.col("documents")).over("shard").alias("first")
        )
        masked = first.join(self.masks, on=["shard", "block"], how="semi")
        starts = {(shard, block): row for shard, block, row in masked.iter_rows()}
        shards: list[int] = []
        rows: list[int] = []
        for place, removed in removed_in(self.masks, self.blocks).items():
            gone = np.flatnonzero(removed) + starts[place]
            rows += gone.tolist()
            shards += [place[0]] * len(gone)
        paths = self.shards["path"].gather(shards) if shards else pl.Series([], dtype=pl.String)
        return pl.DataFrame({"path": paths, "row": pl.Series(rows, dtype=pl.UInt64)}).sort("path", "row")

    def tokenizer_json(self) -> bytes:
        """The tokenizer file itself: a dataset carries its own."""
        digest = self.manifest.tokenizer.sha256
        return read_named(self.store, tokenizer_path(digest), digest, MAX_TOKENIZER_BYTES)

    def lock_json(self) -> bytes:
        """The lock of the build that published this version."""
        return read_named(self.store, lock_path(self.version.lock), self.version.lock, MAX_LOCK_BYTES)

    def table_parts(self, name: str) -> "list[tuple[TableEntry, pl.DataFrame]]":
        """The files that a table is made of, with their rows; its rows are theirs, one after the other."""
        return [(entry, self._read_table(name, entry)) for entry in self.manifest.table_parts(name)]

    def _table(self, name: str) -> "pl.DataFrame":
        import polars as pl

        return pl.concat([frame for _, frame in self.table_parts(name)])

    def _read_table(self, name: str, entry: TableEntry) -> "pl.DataFrame":
        import polars as pl

        from bamba_data.format.tables import DERIVED_SCHEMAS, read_bounded, schemas_of

        if (known := self.frames.get((name, entry))) is not None:
            return known
        path = table_path(entry.sha256)
        data = read_named(self.store, path, entry.sha256, entry.size_bytes)
        schema = DERIVED_SCHEMAS[name] if name in DERIVED_SCHEMAS else schemas_of(self.manifest.format)[name]
        try:
            frame = pl.from_arrow(read_bounded(data, schema, name, entry.rows, path))
        except pl.exceptions.PolarsError as error:
            raise CorruptManifest(path, f"the table of {name} is not readable ({error})") from None
        assert isinstance(frame, pl.DataFrame)
        self.frames[name, entry] = frame
        return frame


def _safe(frame: "pl.DataFrame") -> "pl.DataFrame":
    """The table, if all its paths are safe to join to a root: not every reader goes through our store."""
    import polars as pl

    # One by one takes 0.4 s for 100,000. What a build writes is plain, and told so in a glance: some at a time, for of
    # what it holds on the way Polars gives nothing back.
    plain, folded = True, [pl.Series([], dtype=pl.UInt64)]
    for part in frame.select("path").iter_slices(1 << 16):
        plain = plain and part["path"].str.contains(_PLAIN_PATH).all()
        folded.append(part["path"].str.to_lowercase().hash())
    paths = frame["path"]
    if not plain or pl.concat(folded).n_unique() < len(paths):
        distinct([checked(path) for path in paths])
    return frame


@dataclass(frozen=True)
class Pointer(Record):
    """To the lock of the digest `lock`, from what the lock depends on: so that the next build finds it."""

    FORMAT = "bamba-pointer/2"
    MAX_BYTES = 1 << 12

    lock: str


def pointed_at(store: Store, pointer: str) -> str | None:
    """The digest of the lock that a pointer names; None if there is no such pointer. Those of before 2026-11-28 are the
    bare digest. Raises CorruptManifest for a damaged one."""
    try:
        data = store.read_range(pointer, 0, Pointer.MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if _BARE_POINTER.fullmatch(data):
        return data.decode().strip()
    try:
        return Pointer.parse(data, pointer).lock
    except CorruptManifest as error:
        raise type(error)(pointer, f"{error.detail}; {RELOCK}") from None


def open_dataset(url: str | os.PathLike[str], version: int | str | None = None) -> Dataset:
    """Open the newest version that is offered at a place, or another one.

    Args:
        url: a local path, `file://` or `s3://bucket/prefix`, with or without a slash at its end. `URL@VERSION` is the
            same as `version`.
        version: a number, a tag, the sha256 of a manifest or its first characters, or `withdrawn:<number>` for one even
            if it was withdrawn (see versions.read_version).

    Raises:
        DatasetNotFound: nothing was published there, or no such version.
        Withdrawn: the version was taken back.
        UserError: `url` or `version` could mean two things.
        CorruptManifest: the version or its manifest is damaged.
    """
    return open_version(*_place_and_version(os.fspath(url), version))


def open_version(store: Store, which: int | str | None = None) -> Dataset:
    """The same at a place that is open already."""
    chosen = read_version(store, which)
    return Dataset(store, chosen, _manifest(store, chosen.manifest))


def _place_and_version(url: str, version: int | str | None) -> tuple[Store, int | str | None]:
    """Takes `URL@VERSION` apart. A place whose own name has an `@` is told by what lies there, so that it needs no
    other spelling: one request, and only for a URL with an `@` in its last part."""
    place, at, which = url.rpartition("@")
    if not (at and which and place) or "/" in which or place.endswith("//"):  # `name@x/` is a place as it is
        return open_store(url), version
    whole = open_store(url)
    if next(whole.list(VERSIONS), None) is None:
        if version is not None:
            if next(open_store(place).list(VERSIONS), None) is None:
                return whole, version  # nothing is published at either: said of the place as it was named
            raise UserError(f"{url}: says version {which!r}, and {version!r} is asked for beside it: say one")
        return open_store(place), which
    if version is None and next(open_store(place).list(VERSIONS), None) is not None:
        raise UserError(
            f"{url}: is a dataset, and so is {place}, of which this could be version {which!r}: for the first add a "
            "slash (URL/), for the second say --version"
        )
    return whole, version


def _manifest(store: Store, digest: str) -> Manifest:
    path = manifest_path(digest)
    return manifests.loads(read_named(store, path, digest, manifests.MAX_BYTES), path)


def dataset_of(store: Store, digest: str) -> Dataset:
    """A publication by the digest of its manifest, whether or not a version names it (any more)."""
    return Dataset(store, Version(0, digest, "", "", ""), _manifest(store, digest))


def read_named(store: Store, path: str, digest: str, max_bytes: int) -> bytes:
    """An object that is named by its sha256; of one that is too large no more than that is read."""
    try:
        data = store.read_range(path, 0, max_bytes + 1)
    except FileNotFoundError:
        raise CorruptManifest(path, "is missing") from None
    if len(data) > max_bytes:
        raise CorruptManifest(path, f"is larger than {max_bytes:,} bytes")
    if canonical_json.sha256(data) != digest:
        raise CorruptManifest(path, "does not have the sha256 that names it")
    return data
