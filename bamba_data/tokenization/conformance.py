"""Proof that a backend gives the reference's ids: equal on a hard corpus, before it may touch a build.

The corpus is made here, the same every time: every assigned character of Unicode, alone and in company; long
runs; every mixture of white space; text that looks like special tokens; lines of a megabyte. Run time adds the
other half: a sample of every shard is encoded by both (pipelines.dataset_build.unit).
"""

import functools
import itertools
import json
import random
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bamba_data.canonical_json import digest
from bamba_data.errors import TokenizerError
from bamba_data.tokenization.conformance_cache import keep, kept, proof_of
from bamba_data.tokenization.tokenizer import BACKENDS, REFERENCE, Backend, Tokenizer


@dataclass(frozen=True)
class Certificate:
    """What was compared, and that it was equal. Stands in the manifest."""

    backend: str
    version: str
    reference_version: str
    corpus_sha256: str
    texts: int
    tokens: int
    round_trips: bool
    """Decoding gives text whose ids are the same again, for a sample of the corpus."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """The first text on which a backend and the reference disagree."""

    backend: str
    text: str
    reference_ids: list[int]
    backend_ids: list[int]

    def __str__(self) -> str:
        at = next(
            (i for i, (a, b) in enumerate(itertools.zip_longest(self.reference_ids, self.backend_ids)) if a != b),
            0,
        )
        return (
            f"{self.backend} and {REFERENCE} disagree on {self.text[:40]!r} at token {at}: "
            f"{self.backend_ids[at : at + 4]} instead of {self.reference_ids[at : at + 4]}"
        )


@functools.lru_cache(maxsize=4)
def choose(tokenizer: Tokenizer, wanted: str) -> tuple[Backend, Certificate, list[str]]:
    """The backend to use: the wanted one, or for `auto` the first that is installed and earns a certificate.

    Returns it, its certificate, and a line for every candidate that was passed over. A backend that was asked
    for by name and fails is an error, not a fallback.
    """
    passed_over: list[str] = []
    for name in BACKENDS if wanted == "auto" else [wanted]:
        try:
            backend = tokenizer.backend(name)
        except TokenizerError as error:
            if wanted != "auto":
                raise
            passed_over.append(str(error))
            continue
        outcome = _certified(tokenizer, backend)
        if isinstance(outcome, Certificate):
            return backend, outcome, passed_over
        if wanted != "auto":
            raise TokenizerError(f"no identity certificate: {outcome}")
        passed_over.append(f"no identity certificate: {outcome}")
    raise TokenizerError("no backend can be used: " + "; ".join(passed_over))


def _certified(tokenizer: Tokenizer, backend: Backend) -> Certificate | Difference:
    """What `certify` says, which this host may know already."""
    proof = proof_of(tokenizer, backend, Path(__file__))
    if proof is not None and (fields := kept(proof)) is not None:
        return Certificate(**fields)
    outcome = certify(tokenizer, backend)
    if proof is not None and isinstance(outcome, Certificate):
        keep(proof, outcome.to_json())
    return outcome


def certify(tokenizer: Tokenizer, backend: Backend) -> Certificate | Difference:
    """Encode the hard corpus with both (some seconds) and compare every id."""
    texts = list(hard_corpus(tokenizer))
    reference = tokenizer.reference.encode(texts)
    encoded = reference if backend.name == REFERENCE else backend.encode(texts)
    if len(encoded.lengths) != len(texts):
        return Difference(backend.name, "".join(texts[:1]), reference.split()[0].tolist(), [])
    if not np.array_equal(reference.lengths, encoded.lengths) or not np.array_equal(reference.ids, encoded.ids):
        for text, ours, theirs in zip(texts, reference.split(), encoded.split(), strict=True):
            if not np.array_equal(ours, theirs):
                return Difference(backend.name, text, ours.tolist(), theirs.tolist())
    # Spread over the corpus: it begins with white space, which no tokenizer loses ids of.
    sample = [ids for ids in reference.split()[:: max(1, len(texts) // 400)] if len(ids) <= 4096]
    again = tokenizer.reference.encode([tokenizer.decode(ids.tolist()) for ids in sample])
    return Certificate(
        backend=backend.name,
        version=backend.version,
        reference_version=tokenizer.reference.version,
        corpus_sha256=digest(texts),
        texts=len(texts),
        tokens=len(reference.ids),
        round_trips=np.array_equal(again.ids, np.concatenate(sample)),
    )


def hard_corpus(tokenizer: Tokenizer) -> Iterator[str]:
    """Some megabytes of text that tokenizers trip over. Only the special tokens depend on the tokenizer."""
    dice = random.Random(20240613)
    yield from _spaces()
    yield from _special_tokens(tokenizer)
    yield from _words()
    yield from _runs()
    yield from _characters()
    for alphabet in (
        "abcdefghijklmnopqrstuvwxyz",
        " \n\r\t.aZ9_'é字\u200d\u0301",
        "0123456789.,-eE",
        "<|>endoftx_ ",
    ):
        for length in (1, 7, 64, 511, 4096):
            yield from ("".join(dice.choices(alphabet, k=length)) for _ in range(12))
    anything = [chr(c) for c in dice.choices([*range(0xD800), *range(0xE000, 0x2FA20)], k=4096)]
    for length in (3, 17, 257):
        yield from ("".join(dice.choices(anything, k=length)) for _ in range(120))
    prose = "It was the best of times, it was the worst of times; we're told (in 1859) that l'été n'était pas. "
    yield prose * (1_000_000 // len(prose))
    yield "a" * 300_000
    yield "".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=300_000))
    yield " " * 300_000 + "x"
    yield "line\r\n" * 50_000


def _spaces() -> Iterator[str]:
    blanks = [" ", "\n", "\r\n", "\t", "\r", "\u00a0", "\u3000", "\x0b", "\x85", "\u2028", "\x00"]
    for count in (1, 2, 3):
        for mix in itertools.product(blanks, repeat=count):
            gap = "".join(mix)
            yield f"a{gap}b"
            if count < 3:
                yield from (gap, f"{gap}x", f"x{gap}", f"1{gap}!")


def _special_tokens(tokenizer: Tokenizer) -> Iterator[str]:
    added = [token["content"] for token in json.loads(tokenizer.data).get("added_tokens", [])]
    for token in [*added[:64], "<|endoftext|>", "<s>", "</s>", "<|im_start|>", "[CLS]", "<0x0A>", "▁"]:
        yield from (
            token,
            f"text {token} text",
            f"{token}{token}",
            token[:-1],
            f"x{token[1:]}",
            token.upper(),
        )


def _words() -> Iterator[str]:
    yield from (
        "I'm we'LL they'Re 'tis don''t",
        "1234567 12.34e-5 0x7fff ½ ٣٤٥ Ⅷ",
        "e\u0301 \u00e9 ﬁ Å \u212b \u1e9b\u0323",
    )
    yield from (
        "👩‍👩‍👧‍👦🏳️‍🌈 🇫🇷🇩🇪",
        "مرحبا بالعالم שלום",
        "नमस्ते दुनिया ไทย ភាសា",
        "한국어 \u1112\u1161\u11ab 漢字かな交じり文。",
    )
    yield from (
        "def f(x):\n\treturn {'a': [1,\n        2]}  # ok\n",
        "https://a.b/c?d=e&f=%20#g",
        "A" * 77 + "b" * 77,
    )


def _runs() -> Iterator[str]:
    for character in "a Z0.\n\t-=_字é\u0301👍\u200b":
        yield from (character * length for length in (*range(1, 40), 63, 64, 65, 255, 256, 257, 1023, 4097))


def _characters() -> Iterator[str]:
    """Every character that Unicode has or may soon assign: 64 in a row, apart, and among combining marks; and each
    before an apostrophe, because "x's" is cut after a letter and elsewhere after anything else.

    Fixed ranges, not `unicodedata`: the corpus must not depend on the version of Python.
    """
    for start in (*range(0, 0xD800, 64), *range(0xF900, 0x34000, 64), *range(0xE0000, 0xE0200, 64)):
        block = [chr(c) for c in range(start, start + 64)]
        yield "".join(block)
        yield "".join(f"{c}'s" for c in block)
        large = any(low <= start < high for low, high in _LARGE)
        if not large or start % 2048 == 0:
            yield " ".join(block)
            yield "".join(f"a{c}\u0301" for c in block)
            yield "".join(f"\u0915{c}\u093c " for c in block)
    for start in (*range(0xC0, 0x300, 64), *range(0x370, 0x530, 64), *range(0x1E00, 0x2000, 64)):
        yield unicodedata.normalize("NFD", "".join(map(chr, range(start, start + 64))))  # all assigned long ago


#: Ideographs, Hangul, Tangut: one script a range, where a sample of blocks is company enough.
_LARGE = ((0x3400, 0xA000), (0xAC00, 0xD800), (0x17000, 0x18D00), (0x1B170, 0x1B300), (0x20000, 0x34000))
