"""From the records of finished units to a manifest: in the order of the plan, a few units in memory at a time."""

from collections import Counter
from contextlib import ExitStack

from bamba_data.document import Ledger
from bamba_data.format.identity import of_dataset
from bamba_data.format.manifest import FORMAT, Manifest
from bamba_data.format.manifest_entries import (
    Account,
    BackendEntry,
    CertificateEntry,
    SoftwareEntry,
    Tables,
    TokenizerEntry,
)
from bamba_data.format.tables import SCHEMAS, TableWriter
from bamba_data.format.unit_records import Sampled
from bamba_data.storage.store import Store
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer

from . import acceptance
from .finished_units import finished_units
from .plan import Plan
from .source_totals import SourceTotals


def assemble(plan: Plan, store: Store, tokenizer: Tokenizer) -> Manifest:
    """Write the tables and make the manifest; publishing it is the caller's.

    Raises:
        UnitsLost: A unit has no record, or a damaged one, or one whose files are not there whole: to run again makes
            those units anew.
        BudgetExceeded: There are more bad records than the recipe allows.
        NoDocuments: A source has none.
    """
    sources = {name: SourceTotals() for name in plan.lock.sources}
    sampled, totals = Sampled(), Ledger()
    certificates: set[Certificate] = set()
    software: Counter[tuple[tuple[str, str], ...]] = Counter()  # shards by the versions that wrote them
    with ExitStack() as stack:
        tables = {name: stack.enter_context(TableWriter(name)) for name in SCHEMAS}
        for unit, record in finished_units(plan, store):
            for part in record.parts:
                sampled.add(part.sampled)
                certificates.add(part.made_by.certificate)
                if part.shard:
                    software[tuple(sorted(part.made_by.software.items()))] += 1
            sources[unit.source].add(unit, record, plan, tables)
        for source in sources.values():
            totals.add(source.ledger)
        acceptance.check(plan.recipe.bad_input, sources, store)
        saved = {name: table.save(store) for name, table in tables.items()}
    identities = {name: source.identifying.done() for name, source in sources.items()}
    return Manifest(
        format=FORMAT,
        identity=of_dataset(tokenizer.sha256, tokenizer.dtype.str, identities),
        name=plan.recipe.name,
        recipe=plan.recipe.model_dump(mode="json", exclude={"network"}),
        tokenizer=TokenizerEntry(
            url=plan.recipe.tokenizer.url,
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            token_dtype=tokenizer.dtype.str,  # type: ignore[arg-type]
        ),
        backend=BackendEntry(
            certificates=[CertificateEntry(**certificate.to_json()) for certificate in sorted(certificates, key=str)],
            sampled_documents=sampled.documents,
            sampled_tokens=sampled.tokens,
            parts_redone=sampled.redone,
        ),
        software=[SoftwareEntry(versions=dict(used), shards=software[used]) for used in sorted(software)],
        sources=[source.entry(name, plan.lock) for name, source in sources.items()],
        totals=Account.of(totals),
        tables=Tables(**saved),
    )
