"""Every n-gram of the texts is found in every document that has it, and nothing that only looks like one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data.clean import ngrams
from bamba_data.clean.ngrams import NGRAM_TOKENS, ngram_index, ngrams_in

# Two tokens only: documents are full of n-grams that repeat, overlap, and run over the end of a document.
IDS = st.lists(st.integers(0, 1), max_size=40)
TEXTS = st.lists(IDS, max_size=6)


def cut(ids: list[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + NGRAM_TOKENS]) for start in range(len(ids) - NGRAM_TOKENS + 1)]


@pytest.mark.parametrize("places", [1, 7, 1 << 20])
def test_what_is_found_is_what_sets_of_tuples_find(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "_PLACES", places)

    @given(TEXTS, TEXTS)
    def check(texts: list[list[int]], documents: list[list[int]]) -> None:
        index = ngram_index([np.array(ids, np.uint32) for ids in texts])
        names = [tuple(index.ids[place : place + NGRAM_TOKENS].tolist()) for place in index.places[index.starts[:-1]]]
        assert sorted(names) == sorted({gram for ids in texts for gram in cut(ids)})
        for number, gram in enumerate(names):
            of = index.texts_of_places[index.starts[number] : index.starts[number + 1]].tolist()
            assert sorted(of) == sorted(text for text, ids in enumerate(texts) for its in cut(ids) if its == gram)
        ids = np.array([token for document in documents for token in document], "<u2")
        where, which = ngrams_in(index, ids, np.array([len(document) for document in documents], np.uint32))
        found = [(document, names[gram]) for document, gram in zip(where.tolist(), which.tolist(), strict=True)]
        wanted = {(n, gram) for n, document in enumerate(documents) for gram in cut(document) if gram in names}
        assert sorted(found) == sorted(wanted)

    check()


def test_an_equal_digest_is_not_taken_for_an_equal_ngram(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a multiplier of 1 the digest is the sum, which the next multiplier tells apart; documents are compared."""
    up, down = np.arange(NGRAM_TOKENS, dtype=np.uint32), np.arange(NGRAM_TOKENS, dtype=np.uint32)[::-1]
    monkeypatch.setattr(ngrams, "_multipliers", lambda: iter([1, 3]))
    assert ngram_index([up]).multiplier == 1
    assert ngram_index([up, down]).multiplier == 3
    assert ngrams_in(ngram_index([up]), down, np.array([NGRAM_TOKENS]))[0].tolist() == []
    assert ngrams_in(ngram_index([up]), up, np.array([NGRAM_TOKENS]))[0].tolist() == [0]
