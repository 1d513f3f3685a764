"""The first format of the manifest, `bamba-data/1`: it states no identity, and one set of software for all shards."""

from typing import Any, Literal

from pydantic import model_validator

from bamba_data.format.manifest_entries import (
    Account,
    CertificateEntry,
    Count,
    Entry,
    SourceEntry,
    Tables,
    TokenizerEntry,
)


class FirstBackend(Entry):
    certificate: CertificateEntry
    sampled_documents: Count
    sampled_tokens: Count
    parts_redone: Count


class First(Entry):
    """As it was written. Read as strictly as today's."""

    format: Literal["bamba-data/1"]
    name: str
    recipe: dict[str, Any]
    tokenizer: TokenizerEntry
    backend: FirstBackend
    software: dict[str, str]
    sources: list[SourceEntry]
    totals: Account
    tables: Tables

    @model_validator(mode="after")
    def _nothing_later(self) -> "First":
        for place, entry, later in [
            *((f"sources.{source.name}", source, "identity") for source in self.sources),
            *((f"tables.{name}", getattr(self.tables, name), "content") for name in Tables.model_fields),
        ]:
            if later in entry.model_fields_set:
                raise ValueError(f"{place}.{later} is no field of this format")
        return self
