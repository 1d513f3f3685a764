"""A part in the making: rows into a shard, bad records among the dead letters, everything into the account.

One document in a thousand, and at least one of every part, is encoded a second time by the reference.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

import bamba_data
from bamba_data.canonical_json import sha256
from bamba_data.document import Document, Ledger, Reject
from bamba_data.format.shard import ShardWriter
from bamba_data.storage.store import Store
from bamba_data.tokenization.encode import BackendDiffers, Ids
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer, TooLongToEncode

from .plan import Job, Unit
from .staged_records import MadeBy, Part, Place, ReadInput, Sampled, StagedLetters, StagedShard

LETTER_BYTES = 64 << 20  # a part ends early rather than hold more dead letters than this
SAMPLE_ONE_IN = 1000

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
    """`tokenizer` is what `backend` must agree with. Used once: `finish` ends it."""

    def __init__(self, unit: Unit, number: int, job: Job, tokenizer: Tokenizer, backend: Backend) -> None:
        recipe = job.recipe
        self._unit, self._number, self._recipe, self._tokenizer = unit, number, recipe, tokenizer
        self._backend, self._made_by = backend.name, MadeBy(software(tokenizer, backend), job.certificate)
        rule = recipe.shards
        self._shard = ShardWriter(tokenizer.dtype, rule.block_tokens, rule.blocks_per_shard)
        self._ledgers: dict[int, Ledger] = {}
        self.letters: list[dict[str, Any]] = []
        self._letter_bytes = 0
        self._first: tuple[Document, Ids] | None = None
        self.inputs: list[ReadInput] = []
        self.sampled = Sampled()

    @property
    def full(self) -> bool:
        return self._shard.full or self._letter_bytes >= LETTER_BYTES

    def take(self, position: int, item: Document | Reject, outcome: Ids | Reject) -> bool:
        """One record of the unit's file at `position`; whether it became a dead letter."""
        ledger = self.ledger(position)
        ledger.read += 1
        if isinstance(outcome, Reject):
            return self._refuse(ledger, position, outcome)
        assert isinstance(item, Document)
        self._keep(ledger, position, item, outcome)
        return False

    def ledger(self, position: int) -> Ledger:
        return self._ledgers.setdefault(position, Ledger())

    def note(self, position: int, notes: Sequence[str]) -> None:
        """What is odd about a file as a whole: told once, when it has been read to its end."""
        counts = self.ledger(position).notes
        for name in notes:
            counts[name] = counts.get(name, 0) + 1

    def _keep(self, ledger: Ledger, position: int, document: Document, ids: Ids) -> None:
        if self._first is None:
            self._first = (document, ids)
        place = f"{self._unit.files[position].locked.key}#{document.row}"
        if xxhash.xxh3_64_intdigest(place.encode()) % SAMPLE_ONE_IN == 0:
            self._compare(document, ids)
        self._shard.add(ids, document.id, position, document.row)
        text = document.text
        ledger.kept += 1
        ledger.tokens += len(ids)
        ledger.text_bytes += len(text) if text.isascii() else len(text.encode())
        for note in document.notes:
            ledger.notes[note] = ledger.notes.get(note, 0) + 1

    def _refuse(self, ledger: Ledger, position: int, bad: Reject) -> bool:
        if self._recipe.bad_input.action(bad.reason) == "drop":
            ledger.dropped[bad.reason] = ledger.dropped.get(bad.reason, 0) + 1
            return False
        ledger.dead_lettered[bad.reason] = ledger.dead_lettered.get(bad.reason, 0) + 1
        letter = {name: getattr(bad, name) for name in LETTERS.names if name not in ("source", "path")}
        file = self._unit.files[position].locked
        self.letters.append({"source": file.source, "path": file.path, **letter})
        self._letter_bytes += len(bad.raw)
        return True

    def _compare(self, document: Document, ids: Ids) -> None:
        if self._backend == REFERENCE:
            return
        try:
            wanted = self._tokenizer.reference.encode([document.text]).ids
        except TooLongToEncode:
            return
        if not np.array_equal(wanted, ids):
            raise BackendDiffers(f"{self._backend} and {REFERENCE} disagree on row {document.row} ({document.id})")
        self.sampled.documents += 1
        self.sampled.tokens += len(wanted)

    def finish(self, store: Store, end: Place) -> Part:
        """Write the files of the part; its record is the caller's to save, after this."""
        if self._first is not None and self.sampled.documents == 0:
            self._compare(*self._first)
        shard = letters = None
        if self._shard.documents:
            made = self._shard.finish()
            path = f"dataset={self._unit.source}/{self._stem}-{made.sha256[:16]}.parquet"
            store.put(path, made.data)
            shard = StagedShard(
                path,
                made.sha256,
                len(made.data),
                made.documents,
                made.tokens,
                made.blocks,
                made.candidates,
                made.footer,
            )
        if self.letters:
            letters = self.save_letters(store)
        return Part(
            self._number, end, self._backend, shard, letters, self._ledgers, self.inputs, self.sampled, self._made_by
        )

    def save_letters(self, store: Store) -> StagedLetters:
        data = _letters_file(self.letters)
        digest = sha256(data)
        path = f"_bamba/dead_letters/{self._unit.source}/{self._stem}-{digest[:16]}.parquet"
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


def _letters_file(letters: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(letters, schema=LETTERS), out, compression="zstd", write_page_checksum=True)
    return out.getvalue()
