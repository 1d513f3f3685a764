"""Each item of a batch gets its own ids or the reason why it has none; batches are bounded whatever comes."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamba_data.document import RAW_BYTES, Document, Reject
from bamba_data.recipe import BadInput
from bamba_data.tokenization import encode as encoding
from bamba_data.tokenization.dedup import SeenIds
from bamba_data.tokenization.encode import BackendDiffers, Encoder, batches
from bamba_data.tokenization.tokenizer import Encoded, Reference, Tokenizer, TooLongToEncode

TEXTS = [
    "Call me Ishmael.",
    "Some years ago, never mind how long.",
    "\u0442\u0440\u0438 \U0001f40b",
    " ",
    "<|endoftext|>",
]


def encoder(tokenizer: Tokenizer, **rules: object) -> Encoder:
    return Encoder(tokenizer.reference, tokenizer.vocab_size, BadInput.model_validate(rules), SeenIds())


def documents(*texts: str) -> list[Document | Reject]:
    return [Document(row, f"id-{row}", text, text.encode()) for row, text in enumerate(texts)]


def reasons(outcomes: Sequence[object]) -> list[str]:
    return [outcome.reason if isinstance(outcome, Reject) else "" for outcome in outcomes]


def test_each_text_has_the_ids_that_it_has_alone(tokenizer: Tokenizer) -> None:
    together = encoder(tokenizer).encode(documents(*TEXTS))
    alone = [tokenizer.reference.hf.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [list(ids) for ids in together] == alone


def test_ids_of_a_small_vocabulary_take_two_bytes(tokenizer: Tokenizer) -> None:
    (ids,) = encoder(tokenizer).encode(documents("text"))
    assert isinstance(ids, np.ndarray)
    assert ids.dtype == np.uint16


def test_text_that_looks_like_a_special_token_is_plain_text(tokenizer: Tokenizer) -> None:
    (ids,) = encoder(tokenizer).encode(documents("<|endoftext|>"))
    assert len(ids) > 1


@pytest.mark.parametrize("before", ["a", "\u2019", "\U0001f40b", "\xe9" * 70_000])
def test_a_nul_is_found_in_any_text_and_only_there(tokenizer: Tokenizer, before: str) -> None:
    """\\u0100 and \\u2000 have a byte that is zero, and are none."""
    clean = ["plain", "\u0100\u2000\U00010000", before]
    outcomes = encoder(tokenizer).encode(documents(*clean, before + "\0", *clean))
    assert reasons(outcomes) == ["", "", "", "nul", "", "", ""]
    assert isinstance(outcomes[3], Reject) and outcomes[3].detail == f"at character {len(before)}"


def test_a_reject_stays_in_its_place_among_documents(tokenizer: Tokenizer) -> None:
    reject = Reject(1, "bad_json", "", b"{", 1, "0" * 64)
    first, second = documents("a", "b")
    outcomes = encoder(tokenizer).encode([first, reject, second])
    assert outcomes[1] is reject
    assert [len(outcomes[0]), len(outcomes[2])] == [1, 1]


def test_an_empty_batch_is_no_harm(tokenizer: Tokenizer) -> None:
    assert encoder(tokenizer).encode([]) == []


def test_an_empty_text_has_no_ids_but_a_blank_one_has(tokenizer: Tokenizer) -> None:
    assert reasons(encoder(tokenizer).encode(documents("", " ", "\n"))) == ["empty_text", "", ""]


@pytest.mark.parametrize(("policy", "expected"), [({}, "nul"), ({"nul": "drop"}, "nul"), ({"nul": "keep"}, "")])
def test_nul_is_kept_only_if_the_recipe_says_so(policy: dict[str, str], expected: str, tokenizer: Tokenizer) -> None:
    assert reasons(encoder(tokenizer, policy=policy).encode(documents("a\0b"))) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 1024, ""),
        ("a" * 1025, "document_too_large"),
        ("\u0442" * 512, ""),
        ("\u0442" * 513, "document_too_large"),
        ("\U0001f40b" * 256, ""),
        ("\U0001f40b" * 257, "document_too_large"),
    ],
)
def test_the_limit_of_a_document_counts_its_bytes_of_utf8(text: str, expected: str, tokenizer: Tokenizer) -> None:
    assert reasons(encoder(tokenizer, max_document_bytes=1024).encode(documents(text))) == [expected]


def test_a_document_that_is_refused_keeps_its_raw_line_and_its_digest(tokenizer: Tokenizer) -> None:
    line = b'{"id": "x", "text": ""}'
    (outcome,) = encoder(tokenizer).encode([Document(7, "x", "", line)])
    digest = hashlib.sha256(line).hexdigest()
    assert outcome == Reject(7, "empty_text", "", line, len(line), digest, line=line)


def test_the_raw_bytes_of_a_huge_document_are_cut_but_its_length_is_whole(tokenizer: Tokenizer) -> None:
    (outcome,) = encoder(tokenizer, max_document_bytes=1024).encode([Document(0, "x", "a" * (RAW_BYTES + 5))])
    assert isinstance(outcome, Reject)
    assert (len(outcome.raw), outcome.raw_bytes) == (RAW_BYTES, RAW_BYTES + 5)


# -- duplicate ids


def ids_of(*ids: str) -> list[Document | Reject]:
    return [Document(row, one, "text") for row, one in enumerate(ids)]


def test_the_first_document_of_an_id_is_kept_also_across_batches(tokenizer: Tokenizer) -> None:
    one = encoder(tokenizer)
    assert reasons(one.encode(ids_of("a", "b", "a"))) == ["", "", "duplicate_id"]
    assert reasons(one.encode(ids_of("b", "c"))) == ["duplicate_id", ""]


def test_duplicates_are_kept_if_the_recipe_says_so(tokenizer: Tokenizer) -> None:
    one, batch = encoder(tokenizer, policy={"duplicate_id": "keep"}), ids_of("a", "a", "b")
    assert reasons(one.encode(batch)) == ["", "", ""]
    assert [item.notes for item in batch if isinstance(item, Document)] == [(), ("duplicate_id",), ()]


def test_what_is_kept_in_spite_of_a_reason_is_noted(tokenizer: Tokenizer) -> None:
    batch: list[Document | Reject] = [Document(0, "a", "x\0y", notes=("id_made",)), Document(1, "a", "x\0y")]
    assert reasons(encoder(tokenizer, policy={"nul": "keep", "duplicate_id": "keep"}).encode(batch)) == ["", ""]
    notes = [item.notes for item in batch if isinstance(item, Document)]
    assert notes == [("id_made", "nul"), ("nul", "duplicate_id")]


def test_a_document_that_is_refused_for_another_reason_does_not_take_its_id(tokenizer: Tokenizer) -> None:
    empty, good = Document(0, "a", ""), Document(1, "a", "text")
    assert reasons(encoder(tokenizer).encode([empty, good])) == ["empty_text", ""]


# -- backends


class Odd:
    """A backend of tests at the border where users plug in theirs."""

    name, version = "odd", "1"

    def __init__(self, reference: Reference, vocab_size: int = 0, max_chars: int = 1 << 30) -> None:
        self._reference, self._vocab_size, self._max_chars = reference, vocab_size, max_chars

    def encode(self, texts: Sequence[str]) -> Encoded:
        if sum(map(len, texts)) > self._max_chars:
            raise TooLongToEncode("more than it can")
        encoded = self._reference.encode(texts)
        return Encoded(encoded.ids + self._vocab_size, encoded.lengths)


def test_an_id_beyond_the_vocabulary_is_found(tokenizer: Tokenizer) -> None:
    odd = Odd(tokenizer.reference, tokenizer.vocab_size)
    with pytest.raises(BackendDiffers, match=f"odd gave id .*, the vocabulary has {tokenizer.vocab_size}"):
        Encoder(odd, tokenizer.vocab_size, BadInput(), SeenIds()).encode(documents("text"))


def test_a_text_too_long_for_the_backend_costs_no_other_its_place(tokenizer: Tokenizer) -> None:
    odd = Odd(tokenizer.reference, max_chars=20)
    one = Encoder(odd, tokenizer.vocab_size, BadInput(), SeenIds())
    outcomes = one.encode(documents("short", "x" * 50, "short too"))
    assert reasons(outcomes) == ["", "document_too_large", ""]
    assert list(outcomes[2]) == tokenizer.reference.hf.encode("short too").ids


# -- batches

ITEMS = st.lists(st.integers(0, 60) | st.integers(-60, -1), max_size=40)


@given(sizes=ITEMS, chars=st.integers(1, 100), records=st.integers(1, 10))
@settings(max_examples=300, deadline=None)
def test_batches_hold_everything_in_order_and_no_more_than_they_may(sizes: list[int], chars: int, records: int) -> None:
    items: list[Document | Reject] = [
        Document(row, "", "x" * size) if size >= 0 else Reject(row, "bad_json", "", b"x" * -size, -size, "")
        for row, size in enumerate(sizes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BATCH_CHARS", chars)
        patch.setattr(encoding, "BATCH_RECORDS", records)
        made = list(batches(items))
    assert [item for batch in made for item in batch] == items
    for batch in made:
        held = sum(abs(sizes[item.row]) for item in batch)
        assert 1 <= len(batch) <= records
        assert held <= chars or len(batch) == 1
