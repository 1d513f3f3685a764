"""Which documents of each source the page shows: drawn evenly, the same ones every time.

From up to PLACES blocks of a source, each drawn in proportion to its documents, so that few blocks are read of a
dataset of any size. The draw depends on the content of the source alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from bamba_data.errors import BambaError
from bamba_data.format.dataset import Dataset
from bamba_data.tokenization.tokenizer import Tokenizer

from .documents import Documents, Shown

DOCUMENTS = 12  # of a source, unless more are asked for
PLACES = 8  # blocks of a source, at most; fewer where there are fewer than two documents for each
MAX_DOCUMENTS = 1_000  # of all sources together: at most some 8 MB of a page


@dataclass(frozen=True)
class Samples:
    """Documents of one source. `faults` are blocks that could not be read, each in one line."""

    source: str
    documents: list[Shown]
    of: int
    faults: list[str]


def samples(dataset: Dataset, tokenizer: Tokenizer, sources: Sequence[str], documents: int) -> list[Samples]:
    """Of each of these sources so many documents, or fewer, so that all together are at most MAX_DOCUMENTS."""
    each = min(documents, MAX_DOCUMENTS // max(1, len(sources)))
    return [_of_source(dataset, Documents(dataset, source, tokenizer), each) for source in sources]


def _of_source(dataset: Dataset, documents: Documents, wanted: int) -> Samples:
    shown: list[Shown] = []
    faults: list[str] = []
    for block, numbers in _drawn(dataset.identities[documents.source].content, documents, wanted).items():
        try:
            found = documents.read(block)
            first = documents.first_number(block)
            shown += documents.shown(block, [found[number - first] for number in numbers])
        except BambaError as error:  # one shard that is damaged must not hide the rest, nor be passed over in silence
            faults.append(str(error))
    return Samples(documents.source, shown, documents.count, faults)


def _drawn(content: str, documents: Documents, wanted: int) -> dict[int, list[int]]:
    """Numbers of documents by the block that has them."""
    if not documents.count or not wanted:
        return {}
    random = np.random.default_rng(int.from_bytes(sha256(content.encode()).digest()[:8]))
    if documents.count <= wanted:
        numbers = list(range(documents.count))
    else:
        anchors = random.integers(documents.count, size=min(PLACES, -(-wanted // 2)))
        blocks = sorted({documents.block_of(int(anchor)) for anchor in anchors})
        inside = [
            np.arange(
                documents.first_number(block),
                documents.first_number(block + 1) if block + 1 < documents.blocks else documents.count,
            )
            for block in blocks
        ]
        # The same number of each block: one of many short documents must not fill the page.
        share = -(-wanted // len(blocks))
        taken = [random.permutation(numbers)[:share] for numbers in inside]
        numbers = sorted(int(number) for number in np.concatenate(taken)[:wanted])
    by_block: dict[int, list[int]] = {}
    for number in numbers:
        by_block.setdefault(documents.block_of(number), []).append(number)
    return by_block
