"""A text that is being written: its characters as they come, and where it ends.

    until = Until.of(tokenizer, new_tokens=64, end_ids=[0], stops=["\n\n"])
    text = Text(tokenizer, until)
    print(text.add(token), end="")                  # what is sure to belong to it
    text.why                                        # None, "end", "stop" or "tokens"

A stop string is found wherever it lies: across tokens, and in a token that goes on after it. Characters that may be its
beginning are held back until that is known, so nothing is shown that is no part of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from bamba_data.errors import UserError

from .detokenizer import Detokenizer

#: By an id that ends texts, by a stop string, by the number of tokens, or by whoever reads it.
Why = Literal["end", "stop", "tokens", "interrupted"]


@dataclass(frozen=True, slots=True)
class Until:
    """Where texts end.

    Attributes:
        new_tokens: After so many.
        end_ids: At any of these ids, which is no part of the text.
        stops: Before any of these strings.
    """

    new_tokens: int
    end_ids: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, new_tokens: int, end_ids: Sequence[int | None] = (), stops: Sequence[str] = ()
    ) -> "Until":
        """The same; a stop string that is the name of a special token, which has no text, is that token.

        Raises UserError for no token at all, and for an empty stop string.
        """
        if new_tokens < 1:
            raise UserError(f"{new_tokens} new tokens are asked for: one at least is needed")
        if not all(stops):
            raise UserError("a stop string is empty: every text would end before its first character")
        special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
        ends = {number for number in end_ids if number is not None}
        ends |= {special[stop] for stop in stops if stop in special}
        return cls(new_tokens, frozenset(ends), tuple(dict.fromkeys(stops)))


class Text:
    """Args:
    before: The ids that it goes on from, where they decide how its first token is written (a blank before a word).

    Attributes:
        ids: The tokens so far, without one that ended it.
        text: The characters so far, without a stop string; held-back ones among them.
        why: What ended it.
    """

    def __init__(self, tokenizer: Tokenizer, until: Until, before: Sequence[int] = ()) -> None:
        self.until = until
        self.ids: list[int] = []
        self.text = ""
        self.why: Why | None = None
        self._shown = 0
        self._detokenizer = Detokenizer(tokenizer, before)

    def add(self, token: int) -> str:
        """The characters that are now sure to belong to it. A text that has ended takes no more tokens."""
        if self.why is not None:
            return ""
        if token in self.until.end_ids:
            return self.end("end")
        self.ids.append(token)
        self._take(self._detokenizer.add(token))
        if self.why is None and len(self.ids) == self.until.new_tokens:
            return self.end("tokens")
        return self._sure()

    def end(self, why: Why) -> str:
        """No more tokens come. The characters that were held back."""
        if self.why is None:
            self._take(self._detokenizer.rest())
        if self.why is None:
            self.why = why
        return self._sure()

    def _take(self, new: str) -> None:
        known = len(self.text)
        self.text += new
        found = [at for stop in self.until.stops if (at := self.text.find(stop, max(0, known - len(stop) + 1))) >= 0]
        if found:
            self.text, self.why = self.text[: min(found)], "stop"

    def _sure(self) -> str:
        held = 0
        if self.why is None:
            begins = (stop[:length] for stop in self.until.stops for length in range(1, len(stop)))
            held = max((len(begin) for begin in begins if self.text.endswith(begin)), default=0)
        end = max(self._shown, len(self.text) - held)
        sure, self._shown = self.text[self._shown : end], end
        return sure
