"""The manifest of a derived version: its parents' facts, with accounts and identity of what is left."""

from collections.abc import Mapping, Sequence

import polars as pl

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.format.identity import of_dataset, of_tables
from bamba_data.format.manifest import DERIVED_FORMAT, FIRST_FORMAT, REFERRING_FORMAT, Manifest
from bamba_data.format.manifest_entries import (
    Account,
    DerivedEntry,
    IdentityEntry,
    ParentEntry,
    SoftwareEntry,
    SourceEntry,
    software_line,
)
from bamba_data.format.masks import REMOVED, AsRead


def refuse_first_format(dataset: Dataset) -> None:
    """Raises UserError: what the first format does not state, nothing can be derived from."""
    if dataset.manifest.format == FIRST_FORMAT:
        raise UserError(
            f"{dataset.store.url}: its manifest is of the first format ({FIRST_FORMAT}), which does not say enough to "
            "derive a version from it: build it again (finished units are taken as they are)"
        )


def parent_of(dataset: Dataset) -> ParentEntry:
    return ParentEntry(manifest=dataset.manifest.digest, identity=dataset.identity)


def source_as_left(source: SourceEntry, left: AsRead, gone: int) -> SourceEntry:
    """A source of which `left` are the tables of all blocks and candidates as they are read now, and which has lost
    `gone` documents more than its account says."""
    mine = left.blocks.filter(pl.col("source") == source.name)
    account = source.account
    dropped = dict(account.dropped)
    if gone:
        dropped[REMOVED] = dropped.get(REMOVED, 0) + gone
    identity = of_tables([source.name], left.blocks, left.candidates)[source.name]
    return source.model_copy(
        update={
            "identity": IdentityEntry(content=identity.content, document_ids=str(identity.document_ids)),
            "account": account.model_copy(
                update={
                    "kept": int(mine["documents"].cast(pl.UInt64).sum()),
                    "tokens": int(mine["tokens"].sum()),
                    "dropped": dict(sorted(dropped.items())),
                }
            ),
        }
    )


def totals_of(sources: Sequence[SourceEntry]) -> Account:
    """The sum of the accounts of sources."""

    def summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
        reasons = sorted({reason for by_reason in counts for reason in by_reason})
        return {reason: sum(by_reason.get(reason, 0) for by_reason in counts) for reason in reasons}

    accounts = [source.account for source in sources]
    return Account(
        read=sum(account.read for account in accounts),
        kept=sum(account.kept for account in accounts),
        tokens=sum(account.tokens for account in accounts),
        text_bytes=sum(account.text_bytes for account in accounts),
        dropped=summed([account.dropped for account in accounts]),
        dead_lettered=summed([account.dead_lettered for account in accounts]),
        notes=summed([account.notes for account in accounts]),
    )


def restated(parent: Manifest, sources: Sequence[SourceEntry], derived: DerivedEntry, **changed: object) -> Manifest:
    """A manifest as the parent's, but for these sources, how it was derived, and the fields that are named."""
    identities = {source.name: source.identity for source in sources}
    fields = {name: getattr(parent, name) for name in Manifest.model_fields}
    return Manifest(
        **fields
        | {
            "format": REFERRING_FORMAT if derived.elsewhere else DERIVED_FORMAT,
            "identity": of_dataset(parent.tokenizer.sha256, parent.tokenizer.token_dtype, identities),  # type: ignore[arg-type]
            "sources": list(sources),
            "totals": totals_of(sources),
            "derived": derived,
        }
        | changed
    )


def software_of(manifest: Manifest, lines: "pl.Series") -> list[SoftwareEntry]:
    """What wrote some of a manifest's shards; `lines` is the column `software` of these."""
    counts = dict(lines.value_counts().iter_rows())
    entries = [
        entry.model_copy(update={"shards": counts.get(software_line(entry.versions), 0)}) for entry in manifest.software
    ]
    return [entry for entry in entries if entry.shards]
