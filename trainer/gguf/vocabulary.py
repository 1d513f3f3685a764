"""A tokenizer.json as GGUF says it: tokens and their kinds, merges, special ids, the pre-tokenizer's name.

    vocabulary = vocabulary_of(tokenizer, vocab_size)

Byte-level BPE is what can be said. Everything in a tokenizer.json that would tokenize otherwise in llama.cpp is refused
by its name, but for one thing that is only told (`Vocabulary.remark`): llama.cpp does not normalize to NFC.
"""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from bamba_data.errors import UserError

from ..checkpoint.tokenizer import RunTokenizer
from .pretokenizers import name_of


class TokenKind(IntEnum):
    """`llama_token_type`."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class Vocabulary:
    """`tokens`, `kinds`: one an id, up to the model's vocabulary. `add_bos`, `add_eos`: llama.cpp puts them there."""

    tokens: list[str]
    kinds: list[TokenKind]
    merges: list[str]
    pre: str
    bos: int
    eos: int
    add_bos: bool
    add_eos: bool
    remark: str | None


#: Fields of a BPE model, with the values under which llama.cpp merges as it does.
_BPE_FIELDS: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}
#: The letters of byte-level BPE, one a byte, without those of the 13 bytes that UTF-8 never has (GPT-NeoX lacks them).
_LETTERS = set(ByteLevel.alphabet()) - {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
_ANY_VALUE = {"unk_token", "fuse_unk", "ignore_merges", "vocab", "merges"}


def vocabulary_of(tokenizer: RunTokenizer, vocab_size: int) -> Vocabulary:
    """What a GGUF file says of `tokenizer`, for a model of `vocab_size` tokens (ids beyond the tokenizer's are unused).

    Raises:
        UserError: llama.cpp would tokenize otherwise, or the end of a text has no token.
    """
    where, library = tokenizer.where, tokenizer.tokenizer
    stated = json.loads(tokenizer.data)
    model = stated["model"]
    _check_model(model, where)
    added = {token["id"]: token for token in stated.get("added_tokens") or []}
    _check_added(added, where)
    normalizer = (stated.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise UserError(f"{where}: its normalizer is {normalizer}, llama.cpp has none for byte-level BPE")
    before, after = _put_around(library, where)
    bos = _agreed(before, tokenizer.bos, "before", "--bos", where)
    eos = _agreed(after, tokenizer.eos, "after", "--eos", where)
    if eos is None:
        # llama.cpp takes id 11 of this kind of tokenizer where the file says none, and would stop at that token
        raise UserError(f"{where}: no token ends a text, and llama.cpp would take one of its own choice: give --eos")
    tokens, kinds = _tokens(library, added, vocab_size)
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        merges=[_merge(pair) for pair in model["merges"]],
        pre=name_of(stated, where),
        bos=eos if bos is None else bos,  # nor can a file say that there is none
        eos=eos,
        add_bos=before is not None,
        add_eos=after is not None,
        remark="llama.cpp does not normalize to NFC, as this tokenizer does: give it text in NFC"
        if normalizer
        else None,
    )


def _check_model(model: dict[str, Any], where: str) -> None:
    for field, value in model.items():
        if field in _ANY_VALUE:
            continue
        if field not in _BPE_FIELDS:
            raise UserError(f"{where}: model.{field} is not known here, and may change how a text is tokenized")
        if value not in _BPE_FIELDS[field]:
            raise UserError(f"{where}: model.{field} is {value!r}: llama.cpp knows byte-level BPE without it")
    if missing := sorted(_LETTERS - set(model["vocab"])):
        raise UserError(f"{where}: {len(missing)} bytes have no token, {missing[0]!r} among them: llama.cpp needs all")


def _check_added(added: dict[int, dict[str, Any]], where: str) -> None:
    for token in added.values():
        for field in ("single_word", "lstrip", "rstrip"):
            if token.get(field):
                raise UserError(f"{where}: the token {token['content']!r} has {field}, which GGUF cannot say")


def _put_around(library: Tokenizer, where: str) -> tuple[int | None, int | None]:
    """(the id that the tokenizer puts before each text, the id that it puts after), as it does it."""
    plain = library.encode("a", add_special_tokens=False).ids
    whole = library.encode("a", add_special_tokens=True).ids
    at = next(start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
    before, after = whole[:at], whole[at + len(plain) :]
    if len(before) > 1 or len(after) > 1:
        raise UserError(f"{where}: it puts {before} before and {after} after a text; llama.cpp knows one token each")
    return (before[0] if before else None), (after[0] if after else None)


def _agreed(put: int | None, known: int | None, side: str, option: str, where: str) -> int | None:
    if put is not None and known is not None and put != known:
        raise UserError(
            f"{where}: it puts token {put} {side} a text, and the model was trained with {known} there: "
            f"say which by {option}, with a tokenizer.json that does so"
        )
    return known if put is None else put


def _tokens(library: Tokenizer, added: dict[int, dict[str, Any]], vocab_size: int) -> tuple[list[str], list[TokenKind]]:
    """Texts and kinds by id. An added token is its own text, all others are written in the alphabet of bytes."""
    by_id = {number: token for token, number in library.get_vocab(with_added_tokens=True).items()}
    tokens, kinds = [], []
    for number in range(vocab_size):
        if number in added:
            tokens.append(added[number]["content"])
            kinds.append(TokenKind.CONTROL if added[number].get("special") else TokenKind.USER_DEFINED)
        elif number in by_id:
            tokens.append(by_id[number])
            kinds.append(TokenKind.NORMAL)
        else:
            tokens.append(f"[PAD{number}]")  # texts must differ; these are what the converter writes
            kinds.append(TokenKind.UNUSED)
    return tokens, kinds


def _merge(pair: str | list[str]) -> str:
    """Old files have `left right`, new ones a pair."""
    return pair if isinstance(pair, str) else " ".join(pair)
