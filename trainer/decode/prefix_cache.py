"""What a model remembers of one text, which may go on or be another one: only what is new of it is read.

    cache = PrefixCache(model, limit_tokens=4096)
    logits = cache.read(ids)                        # (1, vocab_size)
    logits = cache.step(token)
    logits = cache.read([*ids, token, *more])       # reads `more` alone

States cannot be taken back to any place, as keys and values can. So where a text is not what is remembered and more, it
is compared with what was remembered at the end of the last `read`, and otherwise read from its beginning.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.shapes import Carried
from ..model.bamba import Bamba
from . import memory
from .forward import advance
from .memory import OWN
from .writing import PIECE_TOKENS, Step

FIRST_TOKENS = 512  # of room; it doubles until the limit


class _Mark(NamedTuple):
    tokens: int
    carried: dict[int, Carried | None]


class PrefixCache:
    """Args:
    limit_tokens: No text is longer.

    Attributes:
        known: The tokens that are remembered.
        read_tokens: How many of the last text's tokens had to be read.
    """

    def __init__(self, model: Bamba, limit_tokens: int) -> None:
        self.limit_tokens = limit_tokens
        self.known: list[int] = []
        self.read_tokens = 0
        self._model = model
        self._memory = memory.empty(model, 1, min(FIRST_TOKENS, limit_tokens))
        self._step: Step | None = None
        self._mark = _Mark(0, memory.carried_of(self._memory))

    def read(self, ids: Sequence[int], is_wanted: Callable[[], bool] = lambda: True) -> Tensor | None:
        """The logits behind a text of one token at least, (1, vocab_size); None if it is not wanted any more: what was
        read until then is remembered."""
        assert 0 < len(ids) <= self.limit_tokens
        if not _begins(ids, self.known):
            kept = self._mark.tokens if _begins(ids, self.known[: self._mark.tokens]) else 0
            carried = self._mark.carried if kept else dict.fromkeys(self._mark.carried)
            memory.take_back(self._memory, kept, carried)
            self.known = self.known[:kept]
        self._step = None
        self.read_tokens = 0
        device = self._memory.used.device
        logits: Tensor | None = None
        while len(self.known) < len(ids):
            if not is_wanted():
                return None
            start = len(self.known)
            piece = list(ids[start : start + PIECE_TOKENS])
            self._make_room(start + len(piece))
            positions = torch.arange(start, start + len(piece), device=device)[None]
            documents = torch.full_like(positions, OWN, dtype=torch.int32)
            logits = advance(self._model, self._memory, torch.tensor([piece], device=device), documents, positions)
            self.known += piece
            self.read_tokens += len(piece)
        self._mark = _Mark(len(self.known), memory.carried_of(self._memory))
        return logits

    def step(self, token: int) -> Tensor:
        """The logits behind one token more, (1, vocab_size)."""
        assert len(self.known) < self.limit_tokens
        if self._make_room(len(self.known) + 1):
            self._step = None
        positions = self._memory.used.clone()
        self._step = self._step or Step(self._model, self._memory, positions)
        self.known.append(token)
        return self._step(torch.tensor([token], device=positions.device))

    def _make_room(self, tokens: int) -> bool:
        """Whether the memory is another one now."""
        room = self._memory.capacity_tokens
        if tokens <= room:
            return False
        while room < tokens:
            room *= 2
        self._memory = memory.grown(self._memory, min(room, self.limit_tokens))
        return True


def _begins(ids: Sequence[int], known: Sequence[int]) -> bool:
    """Whether `ids` are `known` and more."""
    return len(known) < len(ids) and list(ids[: len(known)]) == list(known)
