"""Ids back to the bytes of their text, at the speed of joining bytes, for those who read whole datasets as text.

    decoded = token_bytes(tokenizer)
    decoded(ids)                    # as `Tokenizer.decode(ids)`, in UTF-8

A byte-level vocabulary is a table from ids to bytes: no tokenizer is asked. Any other is decoded by the tokenizer.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from .tokenizer import Tokenizer

Decode = Callable[[Iterable[int]], bytes]


def token_bytes(tokenizer: Tokenizer) -> Decode:
    """What makes bytes of a document's ids. Bytes that are no UTF-8 stay as they are where there is a table."""
    if not _is_byte_level(json.loads(tokenizer.data).get("decoder")):
        return lambda ids: tokenizer.decode(list(ids)).encode()
    table = _table(tokenizer)
    return lambda ids: b"".join(map(table.__getitem__, ids))


def _is_byte_level(decoder: Any) -> bool:
    return isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"


def _table(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of each id; of an id that no token has, none."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    table = [b""] * tokenizer.vocab_size
    for token, token_id in tokenizer.reference.hf.get_vocab(with_added_tokens=True).items():
        # As the tokenizer itself does it: a token with any other character, an added one, is its own text.
        known = all(character in byte_of for character in token)
        table[token_id] = bytes(byte_of[character] for character in token) if known else token.encode()
    return table


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where that can be seen, else the next
    one from U+0100 on. Source: GPT-2's encoder (A. Radford et al., 2019)."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte if byte in seen else 256 + hidden.index(byte)) for byte in range(256)]
