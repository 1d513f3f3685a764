"""The ids that go around documents: found in a tokenizer by name, or given; never guessed."""

import json
from collections.abc import Mapping, Sequence

from bamba_data.errors import UserError

BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "[CLS]", "<|startoftext|>")
EOS_NAMES = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[SEP]")
KINDS = ("eos", "bos", "both", "none")


def delimiters_in(
    tokenizer_json: bytes, vocab_size: int, kind: str, bos_id: int | None = None, eos_id: int | None = None
) -> tuple[list[int], list[int]]:
    """(ids before every document, ids after it).

    Args:
        tokenizer_json: the tokenizer's file.
        vocab_size: one more than its largest id.
        kind: one of KINDS.
        bos_id: the id of "bos", where the tokenizer does not say which it is.
        eos_id: the same of "eos".

    Raises:
        UserError: an unknown kind, an id beyond the vocabulary, or a tokenizer that does not say which id it is.
    """
    if kind not in KINDS:
        raise UserError(f"delimiters are {kind!r}: they can be {', '.join(KINDS)}")
    for given in (bos_id, eos_id):
        if given is not None and not 0 <= given < vocab_size:
            raise UserError(f"id {given} is beyond the vocabulary of {vocab_size:,}")
    special = special_tokens(tokenizer_json) if kind != "none" else {}
    before = [bos_id if bos_id is not None else usual(special, BOS_NAMES, "bos")] if kind in ("bos", "both") else []
    after = [eos_id if eos_id is not None else usual(special, EOS_NAMES, "eos")] if kind in ("eos", "both") else []
    return before, after


def refuse_unused_ids(kind: str, bos_id: int | None, eos_id: int | None) -> None:
    """Raise UserError, in words of the command line, for an id that is given and that `kind` does not use."""
    for name, given, kinds in (("bos", bos_id, ("bos", "both")), ("eos", eos_id, ("eos", "both"))):
        if given is not None and kind not in kinds:
            raise UserError(f"--{name}-id {given} is given, but delimiters are {kind}: say --delimiters {kinds[0]}")


def special_tokens(tokenizer_json: bytes) -> dict[str, int]:
    """The id of every token that the tokenizer's file calls special."""
    added = json.loads(tokenizer_json).get("added_tokens", [])
    return {token["content"]: token["id"] for token in added if token.get("special")}


def usual(special: Mapping[str, int], names: Sequence[str], kind: str) -> int:
    """The id of the one token that has one of these names. Raises UserError if none has, or several."""
    there = [name for name in names if name in special]
    if len(there) != 1:
        has = f"several tokens that may be it ({', '.join(there)})" if there else "no token of a usual name for it"
        raise UserError(f"the tokenizer has {has}: give {kind}_id")
    return special[there[0]]
