"""A tokenizer as an identity (sha256 of its file, vocabulary size) and as backends that turn texts into ids.

Ids are those of Hugging Face `tokenizers` without special tokens: text that looks like one is plain text, no
BOS, no EOS, no truncation. `tokenizers` is the reference; a faster backend must earn a certificate first
(bamba_data.tokenization.conformance), and is compared with the reference on a sample of every shard.
"""

import functools
import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bamba_data.cached_property import cached_property
from bamba_data.canonical_json import sha256
from bamba_data.errors import TokenizerError
from bamba_data.tokenization.utf16 import any_unit

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

PIECE_CHARS = 1 << 20  # the reference takes up to 530 bytes of memory a token: never more than this at once
UNCUT_CHARS = 1 << 22  # a longer text without a place to cut is refused: it could take 2 GB


class TooLongToEncode(Exception):
    """A text that the backend cannot encode within the memory bound."""


class Encoded(NamedTuple):
    """Ids of several texts, end to end, and how many belong to each."""

    ids: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.int64]

    def split(self) -> list[npt.NDArray[np.uint32]]:
        return np.split(self.ids, np.cumsum(self.lengths)[:-1])


class Backend(Protocol):
    """Pure: the same texts give the same ids. `name` and `version` go into the manifest."""

    name: str
    version: str

    def encode(self, texts: Sequence[str]) -> Encoded: ...


@dataclass(frozen=True)
class Tokenizer:
    """A `tokenizer.json`, read and checked, with its identity."""

    data: bytes

    @cached_property
    def sha256(self) -> str:
        return sha256(self.data)

    @cached_property
    def reference(self) -> "Reference":
        return Reference(self.data)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.reference.hf.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def token_bytes(self) -> int:
        """2 where every id fits 16 bit, else 4."""
        return 2 if self.vocab_size <= 1 << 16 else 4

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"<u{self.token_bytes}")

    def backend(self, name: str) -> Backend:
        try:
            make = BACKENDS[name]
        except KeyError:
            raise TokenizerError(f"tokenizer.backend: {name!r} is none of auto, {', '.join(BACKENDS)}") from None
        try:
            return make(self)
        except ImportError as error:
            raise TokenizerError(f"tokenizer.backend {name!r} is not installed ({error})") from None

    def check(self, backend: str) -> None:
        """Raise TokenizerError, before any work, if the file is no tokenizer or there is no such backend."""
        if backend != "auto":
            self.backend(backend)
        self.vocab_size  # noqa: B018 - reads the file

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.reference.hf.decode(list(ids), skip_special_tokens=False))


class Reference:
    """Hugging Face `tokenizers`. Long texts are encoded in pieces, cut where that provably changes nothing nearby."""

    name = "tokenizers"

    def __init__(self, data: bytes) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one unit, one core: the cluster is the parallelism
        import tokenizers

        try:
            self.hf = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # noqa: BLE001 - the Rust side raises bare Exception
            raise TokenizerError(f"not a Hugging Face tokenizer.json ({error})") from None
        self.hf.no_truncation()
        self.hf.no_padding()
        self.hf.encode_special_tokens = True  # "<|endoftext|>" in a web page is plain text
        self.version: str = tokenizers.__version__

    def encode(self, texts: Sequence[str]) -> Encoded:
        counts = np.zeros(len(texts), np.int64)
        encoded: list[npt.NDArray[np.uint32]] = []
        for owners, pieces in self._groups(texts):
            for owner, encoding in zip(owners, self._encode(pieces), strict=True):
                ids = np.array(encoding.ids, np.uint32)
                counts[owner] += len(ids)
                encoded.append(ids)
        return Encoded(np.concatenate(encoded) if encoded else np.zeros(0, np.uint32), counts)

    def _encode(self, pieces: list[str]) -> Any:
        return self.hf.encode_batch_fast(pieces, add_special_tokens=False)

    def _groups(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
        """(owners, pieces) of at most PIECE_CHARS together, unless one piece alone is longer."""
        owners: list[int] = []
        pieces: list[str] = []
        group_chars = 0
        for owner, text in enumerate(texts):
            for piece in self._pieces(text):
                if pieces and group_chars + len(piece) > PIECE_CHARS:
                    yield owners, pieces
                    owners, pieces, group_chars = [], [], 0
                owners.append(owner)
                pieces.append(piece)
                group_chars += len(piece)
        if pieces:
            yield owners, pieces

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        while len(text) - start > PIECE_CHARS:
            cut = self._cut(text, start + PIECE_CHARS // 2, start + PIECE_CHARS)
            if cut is None:
                if len(text) - start > UNCUT_CHARS:
                    raise TooLongToEncode(f"{len(text):,} characters without a place to cut them")
                break
            yield text[start:cut]
            start = cut
        yield text[start:]

    def _cut(self, text: str, low: int, high: int) -> int | None:
        """A place where the ids of what lies around do not change when it is cut there."""
        for number, match in enumerate(_CUT.finditer(text, low, high)):
            cut = match.start()
            left, right = text[max(0, cut - 256) : cut], text[cut : cut + 256]
            whole, first, second = (encoding.ids for encoding in self._encode([left + right, left, right]))
            if whole == first + second:
                return cut
            if number > 16:
                break
        return None


#: Before a space between two words, or before a word that begins a line.
_CUT = re.compile(r"(?<=[a-z])(?= [a-z])|(?<=\w\n)(?=[^\W\d_])")


class Gigatoken:
    """`gigatoken`: the same ids some thirty times as fast (benchmarks/). Special tokens are taken out of the
    tokenizer that it is given, which makes their strings plain text, as `encode_special_tokens` does.

    Its Unicode is newer than the reference's: combining marks that came after version 9 are reordered and composed
    (NFC) by the one and not by the other, and characters of the newest version are letters to the one alone. Texts
    that hold such a character go to the reference; certification looks at every character, so a gap here shows.
    """

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        import gigatoken

        config = json.loads(tokenizer.data)
        config["added_tokens"] = [token for token in config.get("added_tokens", []) if not token.get("special")]
        try:
            self._tokenizer = gigatoken.Tokenizer.from_json(json.dumps(config))
        except Exception as error:  # noqa: BLE001 - the Rust side raises what it likes
            raise TokenizerError(f"gigatoken cannot load this tokenizer ({error})") from None
        self._reference = tokenizer.reference
        self.version: str = importlib.metadata.version("gigatoken")

    def encode(self, texts: Sequence[str]) -> Encoded:
        newer = _with_newer_characters(texts)
        if not newer:
            return self._encode(list(texts))
        parts = self._encode(list(texts)).split()
        for number, ids in zip(newer, self._reference.encode([texts[n] for n in newer]).split(), strict=True):
            parts[number] = ids
        return Encoded(np.concatenate(parts), np.array([len(ids) for ids in parts], np.int64))

    def _encode(self, texts: list[str]) -> Encoded:
        layout = self._tokenizer.encode_batch(texts, parallel=False).layout
        offsets = np.asarray(layout.offsets.data)
        ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        return Encoded(ids, np.diff(offsets))


#: Marks that Unicode gained after version 9 and letters that it gained after 16, and whole ranges of plane 1 where
#: scripts were added since.
_NEWER_RANGES = (
    *((0x07FD, 0x07FD), (0x088F, 0x088F), (0x0897, 0x089F), (0x08CA, 0x08D3), (0x09FE, 0x09FE), (0x0C3C, 0x0C3C)),
    *((0x0C5C, 0x0C5C), (0x0CDC, 0x0CDC), (0x0D3B, 0x0D3C), (0x0EBA, 0x0EBA), (0x1715, 0x1715), (0x1ABF, 0x1AFF)),
    *((0x1DF6, 0x1DFA), (0xA7CE, 0xA7CF), (0xA7D2, 0xA7D4), (0xA7F1, 0xA7F1), (0xA82C, 0xA82C)),
    *((0x10500, 0x105FF), (0x10940, 0x1095F), (0x10D00, 0x10FFF), (0x11000, 0x16FFF), (0x187F8, 0x187FF)),
    *((0x18D00, 0x18DFF), (0x1E000, 0x1E8FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAF), (0x323B0, 0x3347F)),
)
_NEWER = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _NEWER_RANGES) + "]")


@functools.cache
def _newer_units() -> npt.NDArray[np.bool_]:
    """Which UTF-16 units may begin such a character: a table, because a search by `re` costs 6 ns a character."""
    table = np.zeros(1 << 16, np.bool_)
    for first, last in _NEWER_RANGES:
        if last >= 1 << 16:  # their high surrogates
            first, last = (0xD800 + (code_point - 0x10000 >> 10) for code_point in (first, last))
        table[first : last + 1] = True
    return table


def _may_be_newer(units: npt.NDArray[np.uint16]) -> bool:
    return bool(_newer_units().take(units[units >= _NEWER_RANGES[0][0]]).any())


def _with_newer_characters(texts: Sequence[str]) -> list[int]:
    """The numbers of the texts that hold one."""
    suspects = [number for number, text in enumerate(texts) if not text.isascii()]
    if not suspects:
        return []
    if not any_unit([texts[n] for n in suspects], _may_be_newer):
        return []
    return [number for number in suspects if _NEWER.search(texts[number])]


#: By the name that recipes and manifests use; a new backend is its class and one line here. Order: preference.
BACKENDS: dict[str, Callable[[Tokenizer], Backend]] = {
    "gigatoken": Gigatoken,
    "tokenizers": lambda tokenizer: tokenizer.reference,
}
REFERENCE = "tokenizers"
