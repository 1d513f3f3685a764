"""What a manifest is made of: what each of its objects says, in all formats of it."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bamba_data.cached_property import cached_property
from bamba_data.document import Ledger
from bamba_data.sources.base import Name

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**62)]
Counts = dict[Annotated[str, StringConstraints(max_length=64)], Count]


class Entry(BaseModel):
    """Frozen, read strictly: no unknown field, no conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ignored_types=(cached_property,))


class Account(Entry):
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

    @property
    def left_out(self) -> dict[str, int]:
        """Records that are no documents, by reason: dropped or dead-lettered, which one reason may be in different
        versions."""
        reasons = [*self.dropped, *self.dead_lettered]
        return {name: self.dropped.get(name, 0) + self.dead_lettered.get(name, 0) for name in dict.fromkeys(reasons)}

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


class IdentityEntry(Entry):
    """See identity.SourceIdentity."""

    content: Sha256
    document_ids: Sha256


class SourceEntry(Entry):
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


class TokenizerEntry(Entry):
    """Ids are those of `tokenizers` without special tokens, stored as `token_dtype` (numpy's notation)."""

    url: str
    sha256: Sha256
    vocab_size: Count
    token_dtype: Literal["<u2", "<u4"]


class CertificateEntry(Entry):
    """See tokenization.conformance.Certificate."""

    backend: str
    version: str
    reference_version: str
    corpus_sha256: Sha256
    texts: Count
    tokens: Count
    round_trips: bool


class BackendEntry(Entry):
    """The certificates that what made the ids makes the reference's, and the sample taken while it ran."""

    certificates: list[CertificateEntry]
    sampled_documents: Count
    sampled_tokens: Count
    parts_redone: Count


class SoftwareEntry(Entry):
    """What wrote so many of the shards, with versions, as it was when they were written."""

    versions: dict[str, str]
    shards: Count


class TableEntry(Entry):
    """A parquet file at `_bamba/tables/<sha256>.parquet`. `content` is of its rows, whatever wrote them (see
    tables.row_digest); None in the first format alone."""

    sha256: Sha256
    size_bytes: Count
    rows: Count
    content: Sha256 | None = None


class Tables(Entry):
    """The tables behind the manifest; their columns are in tables.py."""

    files: TableEntry
    shards: TableEntry
    blocks: TableEntry
    candidates: TableEntry
    dead_letters: TableEntry


class ParentEntry(Entry):
    """A version that another was derived from: the digest of its manifest, and its identity."""

    manifest: Sha256
    identity: Sha256


class DerivedEntry(Entry):
    """How a version came of others, without a shard being made again (formats 3 and 4).

    `arguments` are all that decided the result. `masks` lists the documents that are no longer part of the dataset,
    though their shards are (see masks.py). `joined` are further parts of the tables, in order: their rows follow those
    of `Manifest.tables`, and their numbers count on from them. `elsewhere` names the files that lie in another store
    (see referring.py), in format 4 alone.
    """

    command: Literal["append", "drop", "subset", "merge", "compact"]
    arguments: dict[str, str]
    parents: Annotated[list[ParentEntry], Field(min_length=1)]
    masks: TableEntry
    joined: list[Tables]
    elsewhere: TableEntry | None = None


def software_line(versions: Mapping[str, str]) -> str:
    """Versions by library as the tables say them of a shard."""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
