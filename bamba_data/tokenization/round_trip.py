"""Does a tokenizer's decoding give text that has the same ids again? Then ids can be proven without their text.

A byte-level BPE's does. One that strips accents, joins pieces by rules of English or knows an id for "unknown"
(WordPiece, most of Unigram) loses, and no file of it says so: it is asked, with the texts that tokenizers trip over.
"""

from collections.abc import Iterator, Sequence

from bamba_data.tokenization.conformance import hard_corpus
from bamba_data.tokenization.tokenizer import Tokenizer

SHORT_CHARS = 64  # such a text is asked in any case
MAX_CHARS = 512  # of one with a character that no other had: the longer ones are the same over and over
BATCH_TEXTS = 64


def same_again(tokenizer: Tokenizer, ids: Sequence[int]) -> bool:
    """Whether these ids, decoded and encoded, are the same: then they are the reference's, of that text at least."""
    return bool(tokenizer.reference.encode([tokenizer.decode(ids)]).ids.tolist() == list(ids))


def lost_text(tokenizer: Tokenizer) -> str | None:
    """A text whose ids are others once they were decoded and encoded again; None if no text of the hard corpus is."""
    texts = list(_asked(tokenizer))
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = texts[start : start + BATCH_TEXTS]
        parts = [ids.tolist() for ids in tokenizer.reference.encode(batch).split()]
        again = tokenizer.reference.encode([tokenizer.decode(ids) for ids in parts]).split()
        for text, ids, other in zip(batch, parts, again, strict=True):
            if other.tolist() != ids:
                return text
    return None


def _asked(tokenizer: Tokenizer) -> Iterator[str]:
    """The short texts of the hard corpus, and every character in company: a tenth of it."""
    seen: set[str] = set()
    for text in hard_corpus(tokenizer):
        if len(text) < SHORT_CHARS or (len(text) <= MAX_CHARS and not seen.issuperset(text)):
            seen.update(text)
            yield text
