"""Paragraphs of a set of texts, and which documents have one of them: exactly, by their bytes.

A paragraph is what stands between two line ends. One counts if it has at least 13 words and marks, as Unicode cuts them
(annex 29), and a letter or a digit: what is shorter, or a line of marks, is everywhere. Source: L. Soldaini et al.,
"Dolma" (2024, arXiv 2402.00159), section 4.1, and I. Magnusson et al., "Paloma" (2023, arXiv 2312.10523), C.1.1.

Texts are what the tokenizer makes of their ids, on both sides: so a tokenizer that changes texts changes both alike.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bamba_data.tokenization.decode import Decode

from .ngrams import Find

PARAGRAPH_WORDS = 13
_ENTRY_BYTES = 250  # of a paragraph beside its own bytes: in the tuple, the dictionary and the arrays
#: Scripts without blanks, each of whose letters is a word by itself in annex 29, which asks no dictionary.
_ALONE = (
    r"[\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"
    r"\U00020000-\U0003ffff]"
)
_WORD = re.compile(
    rf"{_ALONE}"  # one
    rf"|(?:(?!{_ALONE})\w)+(?:(?:[.'’·:](?=[^\W\d_])|[.,;'’](?=\d))(?:(?!{_ALONE})\w)+)*"  # can't, e.g, 2.0, 1,000
    r"|[^\w\s]"  # a mark
)


@dataclass(frozen=True)
class ParagraphIndex:
    """All paragraphs of some texts that count, each once; one is named by its place.

    Attributes:
        paragraphs: their bytes.
        starts: where in `texts_of_places` those of each paragraph begin: int64 [paragraphs + 1].
        texts_of_places: the texts that have it, those of one paragraph together: int64.
    """

    paragraphs: tuple[bytes, ...]
    starts: NDArray[np.int64]
    texts_of_places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paragraphs)

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.paragraphs)) + _ENTRY_BYTES * len(self.paragraphs)

    def finder(self, decode: Decode) -> Find:
        """What says, of the ids of documents end to end and how many each has, which documents have which paragraphs:
        every pair once, by document, then by paragraph, int64."""
        place_of = {paragraph: place for place, paragraph in enumerate(self.paragraphs)}
        wanted = frozenset(place_of)

        def find(ids: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            documents, places, begin, listed = [], [], 0, ids.tolist()
            for document, count in enumerate(counts.tolist()):
                shared = wanted.intersection(decode(listed[begin : begin + count]).split(b"\n"))
                begin += count
                if shared:
                    its = sorted(place_of[paragraph] for paragraph in shared)
                    documents += [document] * len(its)
                    places += its
            return np.array(documents, np.int64), np.array(places, np.int64)

        return find


def paragraph_index(texts: Sequence[bytes]) -> ParagraphIndex:
    """The index of texts, as they were decoded."""
    texts_of: dict[bytes, list[int]] = {}
    for number, text in enumerate(texts):
        for paragraph in dict.fromkeys(text.split(b"\n")):
            if paragraph in texts_of or counts(paragraph.decode("utf-8", "replace")):
                texts_of.setdefault(paragraph, []).append(number)
    places = [number for its in texts_of.values() for number in its]
    starts = np.cumsum([0, *map(len, texts_of.values())], dtype=np.int64)
    return ParagraphIndex(tuple(texts_of), starts, np.array(places, np.int64))


def counts(paragraph: str) -> bool:
    """Whether it is long enough to be looked for, and more than marks."""
    return any(map(str.isalnum, paragraph)) and words_in(paragraph) >= PARAGRAPH_WORDS


def words_in(text: str) -> int:
    """Words and marks, without blanks. Signs that are put on a letter belong to it."""
    bare = "".join(character for character in text if unicodedata.category(character)[0] != "M")
    return sum(1 for _ in _WORD.finditer(bare))
