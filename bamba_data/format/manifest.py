"""The manifest: a small canonical JSON that says what a dataset is; its sha256 names one publication of it.

It holds the identity (see identity.py), the recipe, the tokenizer and the certificates of what made the ids, every
source with its licence and account, the software that wrote the shards, and the sha256s of the tables (parquet, one
row an input, a shard, a block, a file of dead letters). Nothing in it depends on the cluster, the time, or the machine.
Read strictly: an unknown field, a wrong type or sum is a CorruptManifest. The first format is read, too
(manifest_v1.py); it states no identity. What is derived from other versions is of the third format, with the field
`derived`: who knows only the second refuses it, rather than serve documents that were dropped. What refers to files of
other stores is of the fourth, with `derived.elsewhere`: who knows only the third would take them for lost.
"""

from collections import Counter
from typing import Any, Literal

from pydantic import PrivateAttr, ValidationError

from bamba_data import canonical_json
from bamba_data.cached_property import cached_property
from bamba_data.errors import CorruptManifest, first_fault
from bamba_data.format.identity import SourceIdentity, of_dataset
from bamba_data.format.manifest_entries import (
    Account,
    BackendEntry,
    DerivedEntry,
    Entry,
    Sha256,
    SourceEntry,
    TableEntry,
    TokenizerEntry,
)
from bamba_data.format.manifest_entries import SoftwareEntry as SoftwareEntry
from bamba_data.format.manifest_entries import Tables as Tables
from bamba_data.format.manifest_v1 import First

FORMAT: Literal["bamba-data/2"] = "bamba-data/2"
FIRST_FORMAT: Literal["bamba-data/1"] = "bamba-data/1"
DERIVED_FORMAT: Literal["bamba-data/3"] = "bamba-data/3"
REFERRING_FORMAT: Literal["bamba-data/4"] = "bamba-data/4"
FORMATS = (FIRST_FORMAT, FORMAT, DERIVED_FORMAT, REFERRING_FORMAT)
MAX_BYTES = 64 << 20


class Manifest(Entry):
    """A publication: all that it says, and the sha256s of the tables that say the rest."""

    format: Literal["bamba-data/1", "bamba-data/2", "bamba-data/3", "bamba-data/4"]
    identity: Sha256 | None = None
    name: str
    recipe: dict[str, Any]
    tokenizer: TokenizerEntry
    backend: BackendEntry
    software: list[SoftwareEntry]
    sources: list[SourceEntry]
    totals: Account
    tables: Tables
    derived: DerivedEntry | None = None

    _written: bytes | None = PrivateAttr(None)

    @cached_property
    def data(self) -> bytes:
        """Its JSON; of the first format, as it was written."""
        return self._written or canonical_json.dumps(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Its fields; `derived` only where it is, and in it `elsewhere`."""
        if self.derived is None:
            return self.model_dump(mode="json", exclude={"derived"})
        return self.model_dump(mode="json", exclude=None if self.derived.elsewhere else {"derived": {"elsewhere"}})

    @cached_property
    def digest(self) -> str:
        """The name of this publication."""
        return canonical_json.sha256(self.data)

    @cached_property
    def provenance(self) -> str | None:
        """sha256 of all that the manifest says, but not of the bytes that its tables are written in: what another
        version of pyarrow writes of the same rows is no other publication. None in the first format."""
        if self.format == FIRST_FORMAT:
            return None
        said = self.to_json()

        def rows_of(tables: dict[str, Any]) -> dict[str, Any]:
            return {name: [table["rows"], table["content"]] for name, table in tables.items()}

        said["tables"] = rows_of(said["tables"])
        if self.derived:
            derived = said["derived"]
            derived |= {"joined": [rows_of(part) for part in derived["joined"]]}
            for name in ("masks", "elsewhere"):
                if name in derived:
                    derived |= {name: [derived[name]["rows"], derived[name]["content"]]}
        return canonical_json.digest(said)

    def table_parts(self, name: str) -> list[TableEntry]:
        """The files whose rows, one after the other, are the table of this name."""
        parts = [self.tables, *(self.derived.joined if self.derived else [])]
        return [getattr(part, name) for part in parts]

    @property
    def all_tables(self) -> list[TableEntry]:
        """All files of all tables, those of the masks and of what lies elsewhere too."""
        entries = [entry for name in Tables.model_fields for entry in self.table_parts(name)]
        if self.derived is None:
            return entries
        return [*entries, self.derived.masks, *([self.derived.elsewhere] if self.derived.elsewhere else [])]

    def source(self, name: str) -> SourceEntry | None:
        return next((source for source in self.sources if source.name == name), None)


def loads(data: bytes, where: str) -> Manifest:
    """Parse and check a manifest that somebody else may have written.

    Args:
        data: canonical JSON, of one of FORMATS.
        where: what errors call it: a path or a URL.

    Raises:
        CorruptManifest: names the first field that is wrong, of an unknown format, or whose sum is another.
    """
    raw = canonical_json.loads(data, where, MAX_BYTES)
    if isinstance(raw, dict) and raw.get("format") not in FORMATS:
        form = str(raw.get("format"))[:40]
        raise CorruptManifest(where, f"format is {form!r}, this version reads {', '.join(map(repr, FORMATS))}")
    try:
        if isinstance(raw, dict) and raw.get("format") == FIRST_FORMAT:
            manifest = _converted(raw)
        else:
            manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise CorruptManifest(where, f"field {first_fault(error)}") from None
    if not _is_canonical(raw, data):
        raise CorruptManifest(where, "is not written in canonical form")
    _check_sums(manifest, where)
    if manifest.format != FIRST_FORMAT:
        _check_identity(manifest, where)
    return manifest


def _converted(raw: dict[str, Any]) -> Manifest:
    """A manifest of the first format in the form of today's, but with its own bytes; what it does not tell is None."""
    first = First.model_validate(raw)
    backend = first.backend
    manifest = Manifest(
        format=first.format,
        name=first.name,
        recipe=first.recipe,
        tokenizer=first.tokenizer,
        backend=BackendEntry(
            certificates=[backend.certificate],
            sampled_documents=backend.sampled_documents,
            sampled_tokens=backend.sampled_tokens,
            parts_redone=backend.parts_redone,
        ),
        software=[SoftwareEntry(versions=first.software, shards=first.tables.shards.rows)],
        sources=first.sources,
        totals=first.totals,
        tables=first.tables,
    )
    manifest._written = canonical_json.dumps(raw)
    return manifest


def _is_canonical(raw: Any, data: bytes) -> bool:
    """Otherwise one publication would have two names."""
    return canonical_json.dumps(raw) == data


def _check_identity(manifest: Manifest, where: str) -> None:
    """What stands in some formats alone."""
    if (manifest.derived is not None) != (manifest.format in (DERIVED_FORMAT, REFERRING_FORMAT)):
        fault = "is missing" if manifest.derived is None else f"is no field of {manifest.format!r}"
        raise CorruptManifest(where, f"field derived: {fault}")
    elsewhere = manifest.derived.elsewhere if manifest.derived else None
    if (elsewhere is not None) != (manifest.format == REFERRING_FORMAT):
        fault = "is missing" if elsewhere is None else f"is no field of {manifest.format!r}"
        raise CorruptManifest(where, f"field derived.elsewhere: {fault}")
    for field, value in [
        ("identity", manifest.identity),
        *((f"sources.{source.name}.identity", source.identity) for source in manifest.sources),
        *(
            (f"tables.{name}.content", table.content)
            for name in Tables.model_fields
            for table in manifest.table_parts(name)
        ),
        *([("derived.masks.content", manifest.derived.masks.content)] if manifest.derived else []),
        *([("derived.elsewhere.content", elsewhere.content)] if elsewhere else []),
    ]:
        if value is None:
            raise CorruptManifest(where, f"field {field}: is missing")
    named = {
        source.name: SourceIdentity(source.identity.content, source.identity.document_ids)
        for source in manifest.sources
        if source.identity
    }
    if manifest.identity != of_dataset(manifest.tokenizer.sha256, manifest.tokenizer.token_dtype, named):
        raise CorruptManifest(where, "field identity: is not that of the tokenizer and the sources")
    if sum(written.shards for written in manifest.software) != rows_of(manifest, "shards"):
        raise CorruptManifest(where, "field software: its shards do not sum to those of the dataset")


def _check_sums(manifest: Manifest, where: str) -> None:
    names = [source.name for source in manifest.sources]
    if len(set(names)) != len(names):
        raise CorruptManifest(where, "field sources: names stand twice")
    for label, account in [("totals", manifest.totals), *((s.name, s.account) for s in manifest.sources)]:
        if not account.balanced:
            raise CorruptManifest(where, f"the account of {label} does not balance")
    for field in ("read", "kept", "tokens", "text_bytes"):
        total = sum(getattr(source.account, field) for source in manifest.sources)
        if getattr(manifest.totals, field) != total:
            raise CorruptManifest(where, f"field totals.{field}: is not the sum over the sources, {total}")
    for field in ("dropped", "dead_lettered", "notes"):
        counted = sum((Counter(getattr(source.account, field)) for source in manifest.sources), Counter[str]())
        if Counter(getattr(manifest.totals, field)) != counted:
            raise CorruptManifest(where, f"field totals.{field}: is not the sum over the sources, {dict(counted)}")
    for label in ("files", "shards", "blocks"):
        if rows_of(manifest, label) != sum(getattr(source, label) for source in manifest.sources):
            raise CorruptManifest(where, f"field tables.{label}.rows: is not the sum over the sources")


def rows_of(manifest: Manifest, table: str) -> int:
    """How many rows a table has in all its parts."""
    return sum(entry.rows for entry in manifest.table_parts(table))
