"""One document in a thousand, and at least one of every sample, is encoded a second time by the reference.

A certificate (conformance.py) vouches for a backend before a build; the sample goes on asking while the build runs, on
the texts of the build itself. Which documents are asked for depends on their places alone, so that every machine asks
for the same ones.
"""

import numpy as np
import xxhash

from bamba_data.document import Document
from bamba_data.tokenization.encode import BackendDiffers, Ids
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer, TooLongToEncode

SAMPLE_ONE_IN = 1000


class ReferenceSample:
    """Of one part of the output: `documents` and `tokens` were compared so far, and were equal."""

    def __init__(self, tokenizer: Tokenizer, backend: Backend) -> None:
        self._tokenizer, self._backend = tokenizer, backend
        self._first: tuple[Document, Ids] | None = None
        self.documents = 0
        self.tokens = 0

    def offer(self, place: str, document: Document, ids: Ids) -> None:
        """Compare a document, if the hash of its `place` (file and row) chooses it. Raises BackendDiffers."""
        if self._first is None:
            self._first = (document, ids)
        if xxhash.xxh3_64_intdigest(place.encode()) % SAMPLE_ONE_IN == 0:
            self._compare(document, ids)

    def finish(self) -> None:
        """Compare the first document that was offered, if none was compared yet. Raises BackendDiffers."""
        if self._first is not None and self.documents == 0:
            self._compare(*self._first)

    def _compare(self, document: Document, ids: Ids) -> None:
        if self._backend.name == REFERENCE:
            return
        try:
            expected = self._tokenizer.reference.encode([document.text]).ids
        except TooLongToEncode:
            return
        if not np.array_equal(expected, ids):
            raise BackendDiffers(f"{self._backend.name} and {REFERENCE} disagree on row {document.row} ({document.id})")
        self.documents += 1
        self.tokens += len(expected)
