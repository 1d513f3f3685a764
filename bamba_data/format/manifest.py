"""The manifest: a small canonical JSON that says what a dataset is; its sha256 names one publication of it.

It holds the identity (see identity.py), the recipe, the tokenizer and the certificates of what made the ids, every
source with its licence and account, the software that wrote the shards, and the sha256s of the tables (parquet, one
row an input, a shard, a block, a file of dead letters). Nothing in it depends on the cluster, the time, or the machine.
Read strictly: an unknown field, a wrong type or sum is a CorruptManifest. The first format is read, too
(manifest_first.py); it states no identity.
"""

from collections import Counter
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from bamba_data import canonical_json
from bamba_data.document import Ledger
from bamba_data.errors import CorruptManifest
from bamba_data.format.identity import SourceIdentity, of_dataset
from bamba_data.sources.base import Name

FORMAT: Literal["bamba-data/2"] = "bamba-data/2"
FIRST_FORMAT: Literal["bamba-data/1"] = "bamba-data/1"
MAX_BYTES = 64 << 20

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**62)]
Counts = dict[Annotated[str, StringConstraints(max_length=64)], Count]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Account(_Model):
    """read = kept + dropped + dead-lettered; tokens and text bytes (UTF-8) of what was kept."""

    read: Count
    kept: Count
    dropped: Counts
    dead_lettered: Counts
    notes: Counts
    tokens: Count
    text_bytes: Count

    @property
    def balanced(self) -> bool:
        return self.read == self.kept + sum(self.dropped.values()) + sum(self.dead_lettered.values())

    @classmethod
    def of(cls, ledger: Ledger) -> "Account":
        def sort(counts: dict[str, int]) -> dict[str, int]:
            return dict(sorted(counts.items()))

        return cls(
            read=ledger.read,
            kept=ledger.kept,
            dropped=sort(ledger.dropped),
            dead_lettered=sort(ledger.dead_lettered),
            notes=sort(ledger.notes),
            tokens=ledger.tokens,
            text_bytes=ledger.text_bytes,
        )


class IdentityEntry(_Model):
    """See identity.SourceIdentity."""

    content: Sha256
    document_ids: Sha256


class SourceEntry(_Model):
    """`revision` is the commit of a hub source. `quarantined` inputs were left out, by the recipe's word. `identity` is
    None in the first format alone."""

    name: Name
    identity: IdentityEntry | None = None
    corpus: str
    base: str
    revision: str | None
    license: str
    attribution: str
    homepage: str
    files: Count
    quarantined: Count
    shards: Count
    blocks: Count
    size_bytes: Count
    account: Account


class TokenizerEntry(_Model):
    """Ids are those of `tokenizers` without special tokens, stored as `token_dtype` (numpy's notation)."""

    url: str
    sha256: Sha256
    vocab_size: Count
    token_dtype: Literal["<u2", "<u4"]


class CertificateEntry(_Model):
    """See certificate.Certificate."""

    backend: str
    version: str
    reference_version: str
    corpus_sha256: Sha256
    texts: Count
    tokens: Count
    round_trips: bool


class BackendEntry(_Model):
    """The certificates that what made the ids makes the reference's, and the sample taken while it ran."""

    certificates: list[CertificateEntry]
    sampled_documents: Count
    sampled_tokens: Count
    parts_redone: Count


class SoftwareEntry(_Model):
    """What wrote so many of the shards, with versions, as it was when they were written."""

    versions: dict[str, str]
    shards: Count


class TableEntry(_Model):
    """A parquet file at `_bamba/tables/<sha256>.parquet`. `content` is of its rows, whatever wrote them (see
    tables.row_digest); None in the first format alone."""

    sha256: Sha256
    size_bytes: Count
    rows: Count
    content: Sha256 | None = None


class Tables(_Model):
    files: TableEntry
    shards: TableEntry
    blocks: TableEntry
    candidates: TableEntry
    dead_letters: TableEntry


class Manifest(_Model):
    format: Literal["bamba-data/1", "bamba-data/2"]
    identity: Sha256 | None = None
    name: str
    recipe: dict[str, Any]
    tokenizer: TokenizerEntry
    backend: BackendEntry
    software: list[SoftwareEntry]
    sources: list[SourceEntry]
    totals: Account
    tables: Tables

    _written: bytes | None = PrivateAttr(None)

    @cached_property
    def data(self) -> bytes:
        """Its JSON; of the first format, as it was written."""
        return self._written or canonical_json.dumps(self.model_dump(mode="json"))

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
        said = self.model_dump(mode="json")
        said["tables"] = {name: [table["rows"], table["content"]] for name, table in said["tables"].items()}
        return canonical_json.digest(said)

    def source(self, name: str) -> SourceEntry | None:
        return next((source for source in self.sources if source.name == name), None)


def loads(data: bytes, where: str) -> Manifest:
    """Parse and check a manifest that somebody else may have written."""
    raw = canonical_json.loads(data, where, MAX_BYTES)
    if isinstance(raw, dict) and raw.get("format") not in (FORMAT, FIRST_FORMAT):
        form = str(raw.get("format"))[:40]
        raise CorruptManifest(where, f"format is {form!r}, this version reads {FIRST_FORMAT!r} and {FORMAT!r}")
    try:
        if isinstance(raw, dict) and raw.get("format") == FIRST_FORMAT:
            manifest = _converted(raw)
        else:
            manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorruptManifest(where, f"field {place[:120]}: {first['msg']}") from None
    if not _is_canonical(raw, data):
        raise CorruptManifest(where, "is not written in canonical form")
    _check_sums(manifest, where)
    if manifest.format == FORMAT:
        _check_identity(manifest, where)
    return manifest


def _converted(raw: dict[str, Any]) -> Manifest:
    """A manifest of the first format in the form of today's, but with its own bytes."""
    from bamba_data.format.manifest_v1 import First

    manifest = First.model_validate(raw).converted()
    manifest._written = canonical_json.dumps(raw)
    return manifest


def _is_canonical(raw: Any, data: bytes) -> bool:
    """Otherwise one publication would have two names."""
    return canonical_json.dumps(raw) == data


def _check_identity(manifest: Manifest, where: str) -> None:
    """What stands in one format alone."""
    tables = manifest.tables
    for field, value in [
        ("identity", manifest.identity),
        *((f"sources.{one.name}.identity", one.identity) for one in manifest.sources),
        *((f"tables.{name}.content", getattr(tables, name).content) for name in Tables.model_fields),
    ]:
        if value is None:
            raise CorruptManifest(where, f"field {field}: is missing")
    named = {
        one.name: SourceIdentity(one.identity.content, one.identity.document_ids)
        for one in manifest.sources
        if one.identity
    }
    if manifest.identity != of_dataset(manifest.tokenizer.sha256, manifest.tokenizer.token_dtype, named):
        raise CorruptManifest(where, "field identity: is not that of the tokenizer and the sources")
    if sum(one.shards for one in manifest.software) != tables.shards.rows:
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
        if getattr(manifest.tables, label).rows != sum(getattr(source, label) for source in manifest.sources):
            raise CorruptManifest(where, f"field tables.{label}.rows: is not the sum over the sources")
