"""What a source comes to: its units' records added up, and its rows in the tables of the manifest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bamba_data.document import Ledger
from bamba_data.errors import CorruptInput
from bamba_data.format.identity import Identifying
from bamba_data.format.manifest_entries import Account, IdentityEntry, SourceEntry, software_line
from bamba_data.format.tables import TableWriter
from bamba_data.format.unit_records import StagedShard, UnitRecord
from bamba_data.locking.lock import Lock

from .plan import Plan, Unit


@dataclass
class SourceTotals:
    """Of the units that were added so far, in the order of the plan.

    Attributes:
        letters: The file with most dead letters: (records, path).
        identifying: What the identity of the source is made of.
    """

    ledger: Ledger = field(default_factory=Ledger)
    files: int = 0
    quarantined: int = 0
    shards: int = 0
    size_bytes: int = 0
    letters: tuple[int, str] | None = None
    identifying: Identifying = field(default_factory=Identifying)

    def add(self, unit: Unit, record: UnitRecord, plan: Plan, tables: dict[str, TableWriter]) -> None:
        """Take up the next unit, and write its rows. Raises CorruptInput where an input was not what the lock says."""
        self.ledger.add(record.ledger)
        self.files += len(unit.files)
        self.quarantined += sum(file.quarantined for file in unit.files)
        tables["files"].add(list(_file_rows(unit, record, plan)))
        for part in record.parts:
            if part.shard:
                used = part.made_by.software
                self.add_shard(
                    unit.source, unit.number, part.number, unit.files[0].number, part.backend, used, part.shard, tables
                )
            if letters := part.letters:
                self.letters = max(self.letters or (0, ""), (letters.records, letters.path))
                row = {"path": letters.path, "sha256": letters.sha256, "size_bytes": letters.size_bytes}
                row |= {
                    "source": unit.source,
                    "records": letters.records,
                    "software": software_line(part.made_by.software),
                }
                tables["dead_letters"].add([row])

    def add_shard(
        self,
        source: str,
        unit: int,
        part: int,
        first_file: int,
        backend: str,
        software: Mapping[str, str],
        shard: StagedShard,
        tables: dict[str, TableWriter],
    ) -> None:
        """Take up the next shard, and write its rows in the tables of shards, blocks and candidates.

        Args:
            source: Its source.
            unit: Number of its unit in the source.
            part: Number of its part in the unit.
            first_file: Number of the unit's first input in the source.
            backend: What made the ids.
            software: What wrote it, with versions.
            shard: Itself.
            tables: By name.
        """
        shard_row, blocks, candidates = tables["shards"].rows, shard.blocks, shard.candidates
        row = {
            "source": source,
            "path": shard.path,
            "sha256": shard.sha256,
            "size_bytes": shard.size_bytes,
            "documents": shard.documents,
            "tokens": shard.tokens,
            "blocks": len(blocks),
            "unit": unit,
            "part": part,
            "backend": backend,
            "footer_bytes": shard.footer.size_bytes,
            "footer_digest": bytes.fromhex(shard.footer.digest),
            "first_file": first_file,
            "software": software_line(software),
        }
        tables["shards"].add([row])
        digests = [bytes.fromhex(block.digest) for block in blocks]
        ids_digests = [bytes.fromhex(block.ids_digest) for block in blocks]
        own = {"source": source, "shard": shard_row}
        tables["blocks"].add(
            [
                {**own, "block": number, **block.to_json(), "digest": digest, "ids_digest": ids_digest}
                for number, (block, digest, ids_digest) in enumerate(zip(blocks, digests, ids_digests, strict=True))
            ]
        )
        tables["candidates"].add([{**own, **candidate._asdict()} for candidate in candidates])
        first_block = self.identifying.blocks  # before these: candidates count blocks from the source's first
        self.identifying.add_blocks(
            [block.documents for block in blocks], [block.tokens for block in blocks], digests, ids_digests
        )
        self.identifying.add_candidates(
            [first_block + candidate.block for candidate in candidates],
            [candidate.document for candidate in candidates],
            [candidate.tokens for candidate in candidates],
            [candidate.hash for candidate in candidates],
        )
        self.shards += 1
        self.size_bytes += shard.size_bytes

    def entry(self, name: str, lock: Lock) -> SourceEntry:
        """Of the source `name` in the manifest."""
        source, identity = lock.sources[name], self.identifying.done()
        return SourceEntry(
            name=name,
            identity=IdentityEntry(content=identity.content, document_ids=str(identity.document_ids)),
            corpus=source.corpus,
            base=source.location.base,
            revision=lock.revisions.get(name),
            license=source.license,
            attribution=source.attribution,
            homepage=source.homepage,
            files=self.files,
            quarantined=self.quarantined,
            shards=self.shards,
            blocks=self.identifying.blocks,
            size_bytes=self.size_bytes,
            account=Account.of(self.ledger),
        )


def _file_rows(unit: Unit, record: UnitRecord, plan: Plan) -> Iterator[dict[str, Any]]:
    """One row an input. Its etag stands in the lock alone: a mirror, or a touched local file, has another."""
    ledgers: dict[int, Ledger] = {}
    for part in record.parts:
        for position, ledger in part.ledgers.items():
            ledgers.setdefault(position, Ledger()).add(ledger)
    inputs = {read.file: read for read in record.inputs}
    for position, file in enumerate(unit.files):
        ledger, read, locked = ledgers[position], inputs[position], file.locked
        # Readers compare as well; this is against a record of another lock that has the same unit key (equal etags).
        if read.sha256 and locked.facts.sha256 and read.sha256 != locked.facts.sha256:
            raise CorruptInput(locked.url, f"sha256 was {read.sha256} when read, the lock says {locked.facts.sha256}")
        counts = {"dropped": ledger.dropped, "dead_lettered": ledger.dead_lettered, "noted": ledger.notes}
        yield {
            "source": unit.source,
            "file": file.number,
            "path": locked.path,
            "url": plan.lock.public_url(locked),
            "size_bytes": read.size_bytes,
            "sha256": read.sha256,
            "complete": read.complete,
            "quarantined": file.quarantined,
            "read": ledger.read,
            "kept": ledger.kept,
            "dropped": sum(ledger.dropped.values()),
            "dead_lettered": sum(ledger.dead_lettered.values()),
            "tokens": ledger.tokens,
            "text_bytes": ledger.text_bytes,
            "reasons": [
                {"action": action, "reason": reason, "count": count}
                for action, by_reason in counts.items()
                for reason, count in sorted(by_reason.items())
            ],
        }
