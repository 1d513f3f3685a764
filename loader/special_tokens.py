"""The ids that go around documents: chosen here, not when the data was made, and found in the tokenizer by name."""

from collections.abc import Sequence

from bamba_data.errors import UserError
from bamba_data.tokenization.delimiters import KINDS as KINDS
from bamba_data.tokenization.delimiters import delimiters_in

from .open_data import OpenData


def delimiters_of(
    data: Sequence[OpenData], kind: str, bos_id: int | None, eos_id: int | None
) -> tuple[list[int], list[int]]:
    """(ids before every document, ids after it). Raises UserError where the tokenizer does not say which id it is."""
    if kind not in KINDS:
        raise UserError(f"delimiters are {kind!r}: they can be {', '.join(KINDS)}")
    if not data:
        raise UserError("there is no data to read")
    # A tokenizer's file is read only where it must say an id.
    tokenizer_json = data[0].tokenizer_json() if kind != "none" else b""
    return delimiters_in(tokenizer_json, data[0].tokenizer.vocab_size, kind, bos_id, eos_id)
