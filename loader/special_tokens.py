"""The ids that go around documents: chosen here, not when the data was made, and found in the tokenizer by name."""

import json
from collections.abc import Mapping, Sequence

from bamba_data.errors import UserError

from .open_data import OpenData

BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "[CLS]", "<|startoftext|>")
EOS_NAMES = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[SEP]")
KINDS = ("eos", "bos", "both", "none")


def delimiters_of(
    data: Sequence[OpenData], kind: str, bos_id: int | None, eos_id: int | None
) -> tuple[list[int], list[int]]:
    """(ids before every document, ids after it). Raises UserError where the tokenizer does not say which id it is."""
    if kind not in KINDS:
        raise UserError(f"delimiters are {kind!r}: they can be {', '.join(KINDS)}")
    if not data:
        raise UserError("there is no data to read")
    vocab_size = data[0].tokenizer.vocab_size
    for given in (bos_id, eos_id):
        if given is not None and not 0 <= given < vocab_size:
            raise UserError(f"id {given} is beyond the vocabulary of {vocab_size:,}")
    special = _special(data[0].tokenizer_json()) if kind != "none" else {}
    before = [bos_id if bos_id is not None else _named(special, BOS_NAMES, "bos")] if kind in ("bos", "both") else []
    after = [eos_id if eos_id is not None else _named(special, EOS_NAMES, "eos")] if kind in ("eos", "both") else []
    return before, after


def _special(tokenizer_json: bytes) -> dict[str, int]:
    added = json.loads(tokenizer_json).get("added_tokens", [])
    return {token["content"]: token["id"] for token in added if token.get("special")}


def _named(special: Mapping[str, int], names: Sequence[str], kind: str) -> int:
    usual = [name for name in names if name in special]
    if len(usual) != 1:
        has = f"several tokens that may be it ({', '.join(usual)})" if usual else "no token of a usual name for it"
        raise UserError(f"the tokenizer has {has}: give {kind}_id")
    return special[usual[0]]
