"""Texts into ids, a batch at a time; or, for a text that must not become a row, the reason."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.recipe import BadInput
from bamba_data.tokenization.dedup import SeenIds
from bamba_data.tokenization.tokenizer import Backend, TooLongToEncode
from bamba_data.tokenization.utf16 import with_nul

Ids = npt.NDArray[Any]
BATCH_CHARS = 2 << 20
BATCH_RECORDS = 4096


class BackendDiffers(Exception):
    """A backend gave ids that the reference does not give."""


def batches(items: Iterable[Document | Reject]) -> Iterator[list[Document | Reject]]:
    """Some BATCH_CHARS of text together; a longer document makes a batch of its own."""
    batch: list[Document | Reject] = []
    batch_chars = 0
    for item in items:
        size = len(item.text) if isinstance(item, Document) else len(item.raw)
        if batch and (batch_chars + size > BATCH_CHARS or len(batch) >= BATCH_RECORDS):
            yield batch
            batch, batch_chars = [], 0
        batch.append(item)
        batch_chars += size
    if batch:
        yield batch


class Encoder:
    """Of one file: `seen` has the ids that were kept of it."""

    def __init__(self, backend: Backend, vocab_size: int, rules: BadInput, seen: SeenIds) -> None:
        self._backend, self._vocab_size, self._rules, self._seen = backend, vocab_size, rules, seen

    def encode(self, batch: list[Document | Reject]) -> list[Ids | Reject]:
        """For every item, in order, its ids or why it has none.

        A document that is kept in spite of a reason gets that as a note: it is replaced in `batch`.
        """
        short = self._rules.max_document_bytes // 4
        outcomes: list[Ids | Reject | None] = [
            None if isinstance(item, Document) and 0 < len(item.text) <= short else self._refuse(item) for item in batch
        ]
        chosen = [n for n, outcome in enumerate(outcomes) if outcome is None]
        for n in with_nul([batch[n].text for n in chosen]):  # type: ignore[union-attr]
            outcomes[chosen[n]] = self._refuse_nul(chosen[n], batch)
        chosen = [n for n, outcome in enumerate(outcomes) if outcome is None]
        for n, ids in zip(chosen, self._ids([batch[n] for n in chosen]), strict=True):
            outcomes[n] = ids
        chosen = [n for n in chosen if not isinstance(outcomes[n], Reject)]
        is_new = self._seen.add([batch[n].id for n in chosen])  # type: ignore[union-attr]
        if all(is_new):
            return outcomes  # type: ignore[return-value]
        for n, new in zip(chosen, is_new, strict=True):
            if new:
                continue
            if self._rules.action("duplicate_id") == "keep":
                batch[n] = _noted(batch[n], "duplicate_id")
            else:
                outcomes[n] = reject(batch[n], "duplicate_id", "an earlier document of the file has it")
        return outcomes  # type: ignore[return-value]

    def _refuse(self, item: Document | Reject) -> Reject | None:
        if isinstance(item, Reject):
            return item
        if not item.text:
            return reject(item, "empty_text", "")
        if len(item.text.encode()) > self._rules.max_document_bytes:
            return reject(item, "document_too_large", f"{len(item.text):,} characters (bad_input.max_document_bytes)")
        return None

    def _refuse_nul(self, n: int, batch: list[Document | Reject]) -> Reject | None:
        item: Any = batch[n]
        if self._rules.action("nul") == "keep":
            batch[n] = _noted(item, "nul")
            return None
        return reject(item, "nul", f"at character {item.text.index(chr(0))}")

    def _ids(self, documents: list[Any]) -> list[Ids | Reject]:
        """Together; or one by one, where one of them is too long for the backend."""
        try:
            encoded = self._backend.encode([document.text for document in documents])
        except TooLongToEncode as error:
            if len(documents) == 1:
                return [reject(documents[0], "document_too_large", f"{error}, for {self._backend.name}")]
            return [outcome for document in documents for outcome in self._ids([document])]
        if len(encoded.ids) and int(encoded.ids.max()) >= self._vocab_size:
            raise BackendDiffers(
                f"{self._backend.name} gave id {encoded.ids.max()}, the vocabulary has {self._vocab_size}"
            )
        ids = encoded.ids.astype(np.uint16) if self._vocab_size <= 1 << 16 else encoded.ids
        ends = np.cumsum(encoded.lengths).tolist()
        return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _noted(document: Any, reason: str) -> Document:
    noted: Document = document._replace(notes=(*document.notes, reason))
    return noted


def reject(document: Any, reason: str, detail: str) -> Reject:
    """A document as the reject that it turned out to be. Where the form has no raw line, its text is the raw."""
    raw = document.line or document.text.encode()
    digest = hashlib.sha256(raw).hexdigest()
    return Reject(document.row, reason, detail, raw[:RAW_BYTES], len(raw), digest, line=document.line)
