"""From the records of finished units to a manifest: in the order of the plan, a few units in memory at a time."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bamba_data.document import Ledger
from bamba_data.errors import CorruptInput, CorruptManifest, Unfinished
from bamba_data.format.identity import Identifying, SourceIdentity, of_dataset
from bamba_data.format.manifest import (
    FORMAT,
    Account,
    BackendEntry,
    CertificateEntry,
    IdentityEntry,
    Manifest,
    SoftwareEntry,
    SourceEntry,
    TableEntry,
    Tables,
    TokenizerEntry,
)
from bamba_data.format.tables import SCHEMAS, TableWriter
from bamba_data.storage.store import Store
from bamba_data.tokenization.conformance import Certificate
from bamba_data.tokenization.tokenizer import Tokenizer

from . import verdict
from .plan import Plan, Unit
from .staged_records import Part, Sampled, StagedShard, Staging, UnitRecord, unit_path

RECORDS_AT_ONCE = 32


class UnitsLost(Unfinished):
    """Units must run again: what is wrong with each, by its name. Their records are set aside already."""

    def __init__(self, lost: dict[str, str]) -> None:
        super().__init__(lost)
        self.lost = lost

    @property
    def summary(self) -> str:
        first = "; ".join(f"unit {name}: {why}" for name, why in list(self.lost.items())[:3])
        more = f" and {len(self.lost) - 3:,} more" if len(self.lost) > 3 else ""
        return f"{len(self.lost):,} finished units cannot be used: {first}{more}"

    def __str__(self) -> str:
        return f"{self.summary}; run the same command again to make them anew"


@dataclass
class _Sum:
    """What a source comes to."""

    ledger: Ledger = field(default_factory=Ledger)
    files: int = 0
    quarantined: int = 0
    shards: int = 0
    blocks: int = 0
    size_bytes: int = 0
    letters: tuple[int, str] | None = None
    identifying: Identifying = field(default_factory=Identifying)

    @property
    def identity(self) -> SourceIdentity:
        return self.identifying.done()


def assemble(plan: Plan, store: Store, tokenizer: Tokenizer) -> Manifest:
    """Write the tables and make the manifest; publishing it is the caller's. Raises BudgetExceeded when there are
    more bad records than the recipe allows, UnitsLost if a unit has no record, or a damaged one, or one that names
    files that are not there whole: to run again makes those units anew."""
    sums = {name: _Sum() for name in plan.lock.sources}
    sampled, made = Sampled(), _Made()
    with ExitStack() as stack:
        tables = {name: stack.enter_context(TableWriter(name)) for name in SCHEMAS}
        there = _sizes(plan, store)
        for unit, record in _records(plan, store, there):
            for part in record.parts:
                sampled.add(part.sampled)
                made.add(part)
            _add(unit, record, plan, sums[unit.source], tables)
        totals = Ledger()
        for one in sums.values():
            totals.add(one.ledger)
        verdict.check(plan.recipe.bad_input, sums, store)
        saved: dict[str, TableEntry] = {name: table.save(store) for name, table in tables.items()}
    identities = {name: one.identity for name, one in sums.items()}
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
            certificates=[CertificateEntry(**one.to_json()) for one in sorted(made.certificates, key=str)],
            sampled_documents=sampled.documents,
            sampled_tokens=sampled.tokens,
            parts_redone=sampled.redone,
        ),
        software=[SoftwareEntry(versions=dict(one), shards=made.shards[one]) for one in sorted(made.shards)],
        sources=[_entry(plan, name, one) for name, one in sums.items()],
        totals=Account.of(totals),
        tables=Tables(**saved),
    )


def _records(plan: Plan, store: Store, there: dict[str, int]) -> Iterator[tuple[Unit, UnitRecord]]:
    """The records of all units, in order, if each is whole and so are the files that it names. Those that are not are
    set aside, all of them, and then it is an UnitsLost."""
    staging = Staging(store)
    units = iter(plan.units)
    lost: dict[str, str] = {}

    def read(unit: Unit) -> tuple[Unit, UnitRecord | None]:
        try:
            record = staging.unit(unit.source, unit.key)
            if record is None:
                lost[unit.name] = "it has no record"
            elif fault := _lost_file(record, there):
                raise CorruptManifest(unit_path(unit.source, unit.key), fault)
        except CorruptManifest as fault:
            staging.set_aside(unit_path(unit.source, unit.key))
            lost[unit.name], record = str(fault), None
        return unit, record

    with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
        while chunk := [unit for _, unit in zip(range(RECORDS_AT_ONCE * 4), units, strict=False)]:
            for unit, record in pool.map(read, chunk):
                if record is not None and not lost:
                    yield unit, record
    if lost:
        raise UnitsLost(lost)


def _lost_file(record: UnitRecord, there: dict[str, int]) -> str | None:
    for part in record.parts:
        for file in part.files:
            if there.get(file.path) != file.size_bytes:
                found = f"{there[file.path]:,} bytes" if file.path in there else "nothing"
                return f"of {file.path} it wrote {file.size_bytes:,} bytes, now there is {found}"
    return None


def _sizes(plan: Plan, store: Store) -> dict[str, int]:
    """What lies in the store where staged files go."""
    folders = [f"{kind}{name}" for name in plan.lock.sources for kind in ("dataset=", "_bamba/dead_letters/")]
    return {entry.path: entry.size_bytes for folder in folders for entry in store.list(folder)}


def _add(unit: Unit, record: UnitRecord, plan: Plan, total: _Sum, tables: dict[str, TableWriter]) -> None:
    total.ledger.add(record.ledger)
    total.files += len(unit.files)
    total.quarantined += sum(file.quarantined for file in unit.files)
    tables["files"].add(list(_file_rows(unit, record, plan)))
    for part in record.parts:
        if part.shard:
            shard = part.shard
            row = tables["shards"].rows
            tables["shards"].add(
                [
                    {
                        "source": unit.source,
                        "path": shard.path,
                        "sha256": shard.sha256,
                        "size_bytes": shard.size_bytes,
                        "documents": shard.documents,
                        "tokens": shard.tokens,
                        "blocks": len(shard.blocks),
                        "unit": unit.number,
                        "part": part.number,
                        "backend": part.backend,
                        "footer_bytes": shard.footer.size_bytes,
                        "footer_digest": bytes.fromhex(shard.footer.digest),
                        "first_file": unit.files[0].number,
                        "software": _software(part),
                    }
                ]
            )
            tables["blocks"].add(
                [
                    {
                        "source": unit.source,
                        "shard": row,
                        "block": number,
                        **block.to_json(),
                        "digest": bytes.fromhex(block.digest),
                        "ids_digest": bytes.fromhex(block.ids_digest),
                    }
                    for number, block in enumerate(shard.blocks)
                ]
            )
            tables["candidates"].add(
                [{"source": unit.source, "shard": row, **one._asdict()} for one in shard.candidates]
            )
            _identify(total.identifying, shard)
            total.shards += 1
            total.blocks += len(shard.blocks)
            total.size_bytes += shard.size_bytes
        if part.letters:
            letters = part.letters
            total.letters = max(total.letters or (0, ""), (letters.records, letters.path))
            tables["dead_letters"].add(
                [
                    {
                        "source": unit.source,
                        "path": letters.path,
                        "sha256": letters.sha256,
                        "size_bytes": letters.size_bytes,
                        "records": letters.records,
                        "software": _software(part),
                    }
                ]
            )


def _file_rows(unit: Unit, record: UnitRecord, plan: Plan) -> Iterator[dict[str, Any]]:
    """One row an input. Its etag stands in the lock alone: a mirror, or a touched local file, has another."""
    ledgers: dict[int, Ledger] = {}
    for part in record.parts:
        for position, ledger in part.ledgers.items():
            ledgers.setdefault(position, Ledger()).add(ledger)
    read = {one.file: one for one in record.inputs}
    for position, file in enumerate(unit.files):
        ledger, one, locked = ledgers[position], read[position], file.locked
        if one.sha256 and locked.facts.sha256 and one.sha256 != locked.facts.sha256:
            raise CorruptInput(locked.url, f"sha256 was {one.sha256} when read, the lock says {locked.facts.sha256}")
        yield {
            "source": unit.source,
            "file": file.number,
            "path": locked.path,
            "url": plan.lock.public_url(locked),
            "size_bytes": one.size_bytes,
            "sha256": one.sha256,
            "complete": one.complete,
            "quarantined": file.quarantined,
            "read": ledger.read,
            "kept": ledger.kept,
            "dropped": sum(ledger.dropped.values()),
            "dead_lettered": sum(ledger.dead_lettered.values()),
            "tokens": ledger.tokens,
            "text_bytes": ledger.text_bytes,
            "reasons": [
                {"action": action, "reason": reason, "count": count}
                for action, counts in (
                    ("dropped", ledger.dropped),
                    ("dead_lettered", ledger.dead_lettered),
                    ("noted", ledger.notes),
                )
                for reason, count in sorted(counts.items())
            ],
        }


def _entry(plan: Plan, name: str, total: _Sum) -> SourceEntry:
    source = plan.lock.sources[name]
    return SourceEntry(
        name=name,
        identity=IdentityEntry(content=total.identity.content, document_ids=str(total.identity.document_ids)),
        corpus=source.corpus,
        base=source.location.base,
        revision=plan.lock.revisions.get(name),
        license=source.license,
        attribution=source.attribution,
        homepage=source.homepage,
        files=total.files,
        quarantined=total.quarantined,
        shards=total.shards,
        blocks=total.blocks,
        size_bytes=total.size_bytes,
        account=Account.of(total.ledger),
    )


def _identify(identifying: Identifying, shard: StagedShard) -> None:
    first, blocks, held = identifying.blocks, shard.blocks, shard.candidates
    identifying.add_blocks(
        [block.documents for block in blocks],
        [block.tokens for block in blocks],
        [bytes.fromhex(block.digest) for block in blocks],
        [bytes.fromhex(block.ids_digest) for block in blocks],
    )
    identifying.add_candidates(
        [first + one.block for one in held],
        [one.document for one in held],
        [one.tokens for one in held],
        [one.hash for one in held],
    )


@dataclass
class _Made:
    """What wrote the parts: the certificates, and how many shards each set of versions."""

    certificates: set[Certificate] = field(default_factory=set)
    shards: Counter[tuple[tuple[str, str], ...]] = field(default_factory=Counter)

    def add(self, part: Part) -> None:
        self.certificates.add(part.made_by.certificate)
        if part.shard:
            self.shards[tuple(sorted(part.made_by.software.items()))] += 1


def _software(part: Part) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(part.made_by.software.items()))
