"""The n-grams of a set of texts, and where in blocks of tokens they stand: exactly, at the speed of numpy.

The digest of the ids t₀ … t₁₂ is Σ tₖ·mᵏ modulo 2⁶⁴ (R. Karp and M. Rabin, 1987, doi 10.1147/rd.312.0249), made for all
places at once by doubling. A digest only says where to look: each candidate is compared id by id. The multiplier m is
the first of a fixed series under which no two n-grams of the texts have the same digest.

Memory: up to 60 bytes a token of the texts (28 of arrays, 16 to 32 of flags).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NGRAM_TOKENS = 13  # as in GPT-3, appendix C, which counts words
_PLACES = 1 << 20  # looked at at once

Find = Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class NgramIndex:
    """All n-grams of some texts; an n-gram is named by its place in `digests`.

    Attributes:
        ids: of all texts, end to end: uint32 [tokens].
        ends: where each text ends there: int64 [texts].
        multiplier: of the digests.
        digests: of the distinct n-grams, ascending: uint64 [ngrams].
        places: where in `ids` an n-gram stands, those of one together, lowest first: int64 [all of them].
        starts: where in `places` those of each n-gram begin: int64 [ngrams + 1].
        might: whether a digest that begins so is of an n-gram: bool [a power of two].
    """

    ids: NDArray[np.uint32]
    ends: NDArray[np.int64]
    multiplier: int
    digests: NDArray[np.uint64]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    might: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.digests)

    def finder(self, decode: object = None) -> "Find":
        """What says, of the ids of documents end to end and how many each has, which have which n-grams: `ngrams_in`.
        Ids are compared, so nothing is decoded."""
        return functools.partial(ngrams_in, self)

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in (self.ids, self.ends, self.digests, self.places, self.starts, self.might))

    @property
    def texts_of_places(self) -> NDArray[np.int64]:
        """The text of each of `places`, int64."""
        return np.searchsorted(self.ends, self.places, side="right")


def ngram_index(texts: Sequence[NDArray[Any]]) -> NgramIndex:
    """The index of texts, each its ids; a text of less than NGRAM_TOKENS has no n-gram."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths)
    ids = np.concatenate([np.empty(0, np.uint32), *texts]).astype(np.uint32)
    inside = np.zeros(max(0, len(ids) - NGRAM_TOKENS + 1), np.bool_)
    for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
        inside[start : max(start, end - NGRAM_TOKENS + 1)] = True
    standing = np.flatnonzero(inside)
    for multiplier in _multipliers():
        all_digests = _rolling(ids, multiplier)[standing]
        order = np.argsort(all_digests, kind="stable")
        places = standing[order]
        digests, starts = np.unique(all_digests[order], return_index=True)
        starts = np.append(starts, len(places)).astype(np.int64)
        first = np.repeat(places[starts[:-1]], np.diff(starts))
        if all((ids[places + k] == ids[first + k]).all() for k in range(NGRAM_TOKENS)):
            break
    might = np.zeros(1 << max(6, (16 * len(digests)).bit_length()), np.bool_)
    might[digests >> _shift(might)] = True
    return NgramIndex(ids, ends, multiplier, digests, places, starts, might)


def ngrams_in(index: NgramIndex, ids: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which n-grams stand in which documents.

    Args:
        index: of the n-grams.
        ids: of the documents, end to end: [tokens].
        counts: how many each has: [documents].

    Returns:
        Documents and n-grams, int64 [found] each: every pair once, by document, then by n-gram.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    found = [np.empty(0, np.int64)]
    steps = np.arange(NGRAM_TOKENS)
    for begin in range(0, len(ids) - NGRAM_TOKENS + 1, _PLACES):
        piece = ids[begin : begin + _PLACES + NGRAM_TOKENS - 1]
        digests = _rolling(piece, index.multiplier)
        places = np.flatnonzero(index.might[digests >> _shift(index.might)])
        grams = np.searchsorted(index.digests, digests[places])
        grams[grams == len(index)] = 0  # above all: not equal below
        same = index.digests[grams] == digests[places] if len(index) else np.zeros(0, np.bool_)
        places, grams = places[same], grams[same]
        documents = np.searchsorted(ends, begin + places, side="right")
        theirs = index.ids[index.places[index.starts[grams]][:, None] + steps]
        good = (begin + places + NGRAM_TOKENS <= ends[documents]) & (piece[places[:, None] + steps] == theirs).all(1)
        found.append(np.unique(documents[good] * max(1, len(index)) + grams[good]))
    pairs = np.unique(np.concatenate(found))
    documents, grams = np.divmod(pairs, max(1, len(index)))
    return documents, grams


def _rolling(ids: NDArray[Any], multiplier: int) -> NDArray[np.uint64]:
    """The digest of the n-gram at each place, uint64 [tokens - 12]; sums run over, as they should."""
    places = len(ids) - NGRAM_TOKENS + 1
    if places <= 0:
        return np.empty(0, np.uint64)
    power = [np.uint64(pow(multiplier, k, 1 << 64)) for k in range(NGRAM_TOKENS)]
    one = ids.astype(np.uint64) + np.uint64(1)  # so that an id of 0 counts
    two = one[:-1] + power[1] * one[1:]
    four = two[:-2] + power[2] * two[2:]
    eight = four[:-4] + power[4] * four[4:]
    digests: NDArray[np.uint64] = eight[:places] + power[8] * four[8 : 8 + places] + power[12] * one[12 : 12 + places]
    return digests


def _shift(might: NDArray[np.bool_]) -> np.uint64:
    """What is left of a digest is a place in `might`."""
    return np.uint64(64 - (len(might).bit_length() - 1))


def _multipliers() -> Iterator[int]:
    """Odd numbers of 64 bits, always the same."""
    random = np.random.Generator(np.random.Philox(13))
    while True:
        yield int(random.integers(1 << 63, dtype=np.uint64)) << 1 | 1
