"""What an import needs of another trainer's token files, whatever their form: documents of ids, one after another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bamba_data.errors import WrongForm

MAX_DOCUMENT_TOKENS = 1 << 28  # a document is in memory as a whole


class TokenInput(Protocol):
    """One file of ids with what says where its documents are, which has been checked.

    `ids` is the file of ids; `beside` the files that it is read with, and their sha256; `name` is what both begin with;
    `tokens` are as many as there are, documents' delimiters too.
    """

    @property
    def ids(self) -> Path: ...
    @property
    def beside(self) -> tuple[tuple[Path, str], ...]: ...
    @property
    def name(self) -> str: ...
    @property
    def tokens(self) -> int: ...

    def read(self, digest: Any, vocab_size: int) -> Iterator[NDArray[Any]]:
        """The ids of every document, in order; some may have none.

        Args:
            digest: updated with every byte of `ids`, as by hashlib.
            vocab_size: one more than the largest id that may be there.

        Raises:
            WrongForm: an id is beyond the vocabulary.
            CorruptInput: the file is shorter than it was when it was opened.
        """


def check_ids(file: Path, ids: NDArray[Any], document: int, vocab_size: int) -> None:
    """Raise WrongForm, naming the first of the ids that the vocabulary does not have."""
    if not len(ids) or (int(ids.max()) < vocab_size and int(ids.min()) >= 0):
        return
    at = int(np.flatnonzero((ids < 0) | (ids >= vocab_size))[0])
    raise WrongForm(
        str(file),
        f"document {document:,} has id {ids[at]:,} at place {at:,}, the tokenizer has {vocab_size:,} ids",
        "give the tokenizer that made these files",
    )
