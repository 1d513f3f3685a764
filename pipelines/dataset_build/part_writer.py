"""A part in the making: rows into a shard, bad records among the dead letters, every record into a ledger.

A sample of the ids is compared with the reference tokenizer (bamba_data/tokenization/reference_sample.py).
"""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import bamba_data
from bamba_data.canonical_json import sha256
from bamba_data.document import Document, Ledger, Reject
from bamba_data.format.layout import dead_letter_folder, shard_folder
from bamba_data.format.shard import ShardWriter
from bamba_data.format.unit_records import MadeBy, Part, Place, ReadInput, Sampled, StagedLetters, StagedShard
from bamba_data.storage.store import Store
from bamba_data.tokenization.encode import Ids
from bamba_data.tokenization.reference_sample import ReferenceSample
from bamba_data.tokenization.tokenizer import Backend, Tokenizer

from .plan import Job, Unit

LETTER_BYTES = 64 << 20  # a part ends early rather than hold more dead letters than this in memory

LETTERS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("row", pa.uint64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("raw", pa.binary(), nullable=False),
        pa.field("raw_bytes", pa.uint64(), nullable=False),
        pa.field("raw_sha256", pa.string(), nullable=False),
    ],
    metadata={"bamba_format": "bamba-dead-letters/1"},
)


class PartBuilder:
    """Rows, dead letters and counts of one part, in memory until `finish` writes them. Used once.

    Args:
        unit: Whose part it is.
        number: Of the part in the unit, from 0 on.
        job: What all units of the build share.
        tokenizer: What `backend` must agree with.
        backend: What made the ids.
    """

    def __init__(self, unit: Unit, number: int, job: Job, tokenizer: Tokenizer, backend: Backend) -> None:
        self._unit, self._number, self._rules = unit, number, job.recipe.bad_input
        self._backend, self._made_by = backend.name, MadeBy(software(tokenizer, backend), job.certificate)
        rule = job.recipe.shards
        self._shard = ShardWriter(tokenizer.dtype, rule.block_tokens, rule.blocks_per_shard)
        self._sample = ReferenceSample(tokenizer, backend)
        self._ledgers: dict[int, Ledger] = {}
        self._letter_bytes = 0
        self.letters: list[dict[str, Any]] = []
        self.inputs: list[ReadInput] = []

    @property
    def full(self) -> bool:
        return self._shard.full or self._letter_bytes >= LETTER_BYTES

    def take(
        self, position: int, items: Sequence[Document | Reject], outcomes: Sequence[Ids | Reject], start: int
    ) -> tuple[int, bool]:
        """Records of the unit's file at `position`, from number `start` of these on, until one becomes a dead letter,
        the part is full, or all are taken. Raises BackendDiffers.

        Returns:
            The number of the next one, and whether the last one became a dead letter.
        """
        ledger, file, action = self.ledger(position), self._unit.files[position].locked, self._rules.action
        key, sample, shard = file.key, self._sample, self._shard
        for number in range(start, len(items)):
            item, outcome = items[number], outcomes[number]
            did = ledger.book(item, outcome, action)
            if isinstance(outcome, Reject):
                if did == "dead_letter":
                    fields = {name: getattr(outcome, name) for name in LETTERS.names if name not in ("source", "path")}
                    self.letters.append({"source": file.source, "path": file.path, **fields})
                    self._letter_bytes += len(outcome.raw)
                    return number + 1, True
            elif isinstance(item, Document):
                sample.offer(f"{key}#{item.row}", item, outcome)
                if shard.add(outcome, item.id, position, item.row) and shard.full:
                    return number + 1, False
        return len(items), False

    def ledger(self, position: int) -> Ledger:
        if (ledger := self._ledgers.get(position)) is None:
            ledger = self._ledgers[position] = Ledger()
        return ledger

    def note(self, position: int, notes: Sequence[str]) -> None:
        """What is odd about a file as a whole: told once, when it has been read to its end."""
        counts = self.ledger(position).notes
        for name in notes:
            counts[name] = counts.get(name, 0) + 1

    def finish(self, store: Store, end: Place) -> Part:
        """Write the files of the part; its record is the caller's to save, after this. `end` is where the next part
        begins. Raises BackendDiffers where the one document that could be sampled differs."""
        self._sample.finish()
        shard = None
        if self._shard.documents:
            finished = self._shard.finish()
            shard = StagedShard(
                path=f"{shard_folder(self._unit.source)}/{self._stem}-{finished.sha256[:16]}.parquet",
                sha256=finished.sha256,
                size_bytes=len(finished.data),
                documents=finished.documents,
                tokens=finished.tokens,
                blocks=finished.blocks,
                candidates=finished.candidates,
                footer=finished.footer,
            )
            # Named by its content: a second copy of the unit, elsewhere at the same time, writes the same object.
            store.put(shard.path, finished.data)
        letters = self.save_letters(store) if self.letters else None
        sampled = Sampled(self._sample.documents, self._sample.tokens)
        return Part(
            self._number, end, self._backend, shard, letters, self._ledgers, self.inputs, sampled, self._made_by
        )

    def save_letters(self, store: Store) -> StagedLetters:
        """Write the dead letters so far; their file is named by its content, so to write it again changes nothing."""
        out = io.BytesIO()
        table = pa.Table.from_pylist(self.letters, schema=LETTERS)
        pq.write_table(table, out, compression="zstd", write_page_checksum=True)
        data = out.getvalue()
        digest = sha256(data)
        path = f"{dead_letter_folder(self._unit.source)}/{self._stem}-{digest[:16]}.parquet"
        store.put(path, data)
        return StagedLetters(path, digest, len(data), len(self.letters))

    @property
    def _stem(self) -> str:
        return f"{self._unit.label}-{self._number:03d}"


def software(tokenizer: Tokenizer, backend: Backend) -> dict[str, str]:
    """The versions of all that can change the bytes of a shard, in this process."""
    reference = tokenizer.reference
    return {
        "bamba-data": bamba_data.__version__,
        "pyarrow": pa.__version__,
        reference.name: reference.version,
        backend.name: backend.version,
    }
