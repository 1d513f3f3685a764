"""The manifest: a small canonical JSON that says what a dataset is, and by its sha256 names it.

It holds the recipe, the tokenizer and its certificate, every source with its licence and account, and the sha256s
of the tables (parquet, one row an input, a shard, a block, a file of dead letters). Nothing in it depends on the
cluster, the time, or the machine. Read strictly: an unknown field, a wrong type or sum is a CorruptManifest.
"""

from collections import Counter
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from bamba_data import canonical
from bamba_data.document import Ledger
from bamba_data.errors import CorruptManifest
from bamba_data.sources.base import Name

FORMAT: Literal["bamba-data/1"] = "bamba-data/1"
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


class SourceEntry(_Model):
    """`revision` is the commit of a hub source. `quarantined` inputs were left out, by the recipe's word."""

    name: Name
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
    """What made the ids, the certificate that it makes the reference's, and the sample taken while it ran."""

    certificate: CertificateEntry
    sampled_documents: Count
    sampled_tokens: Count
    parts_redone: Count


class TableEntry(_Model):
    """A parquet file at `_bamba/tables/<sha256>.parquet`."""

    sha256: Sha256
    size_bytes: Count
    rows: Count


class Tables(_Model):
    files: TableEntry
    shards: TableEntry
    blocks: TableEntry
    candidates: TableEntry
    dead_letters: TableEntry


class Manifest(_Model):
    format: Literal["bamba-data/1"]
    name: str
    recipe: dict[str, Any]
    tokenizer: TokenizerEntry
    backend: BackendEntry
    software: dict[str, str]
    sources: list[SourceEntry]
    totals: Account
    tables: Tables

    @cached_property
    def data(self) -> bytes:
        return canonical.dumps(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> str:
        """The name of the dataset."""
        return canonical.sha256(self.data)

    def source(self, name: str) -> SourceEntry | None:
        return next((source for source in self.sources if source.name == name), None)


def path_of(digest: str) -> str:
    return f"_bamba/manifests/{digest}.json"


def table_path(sha256: str) -> str:
    return f"_bamba/tables/{sha256}.parquet"


def loads(data: bytes, where: str) -> Manifest:
    """Parse and check a manifest that somebody else may have written."""
    raw = canonical.loads(data, where, MAX_BYTES)
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise CorruptManifest(where, f"format is {str(raw.get('format'))[:40]!r}, this version reads {FORMAT!r}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorruptManifest(where, f"field {place[:120]}: {first['msg']}") from None
    if not _is_canonical(manifest, data):
        raise CorruptManifest(where, "is not written in canonical form")
    _check_sums(manifest, where)
    return manifest


def _is_canonical(manifest: Manifest, data: bytes) -> bool:
    """Otherwise one dataset would have two names."""
    try:
        return manifest.data == data
    except ValueError:  # nested deeper than can be written
        return False


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
