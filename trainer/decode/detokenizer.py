"""Text out of token ids as they come: whole characters only, and as much as if all had been decoded at once.

A token of a byte-level tokenizer may end in the middle of a character, and the decoders of others look at the token
before (a blank between words). So what is decoded is a few tokens with those before them, whose text is cut off.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

CONTEXT_TOKENS = 8  # of what stands before the first token
BROKEN = "\ufffd"  # what decoders make of bytes that are no whole character


class Detokenizer:
    """Args:
    before: The ids that the text goes on from, in themselves no part of it.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before[-CONTEXT_TOKENS:])
        self._context = len(self._ids)  # so many of them are given out
        self._given = 0  # characters of the others that are given out

    def add(self, token: int) -> str:
        """The characters that are whole now. Bytes that never become one come with the character after them."""
        self._ids.append(token)
        text = self._later()
        whole = text.rstrip(BROKEN)
        new = whole[self._given :]
        self._given = len(whole)
        if text and whole == text:
            self._ids = self._ids[self._context :]
            self._context, self._given = len(self._ids), 0
        return new

    def rest(self) -> str:
        """What is left where the text ends: bytes that are no whole character."""
        return self._later()[self._given :]

    def _later(self) -> str:
        decode = self._tokenizer.decode
        whole: str = decode(self._ids)
        return whole[len(decode(self._ids[: self._context])) :]
