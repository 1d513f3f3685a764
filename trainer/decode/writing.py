"""Write on from prompts, a token a step: prompts are read in pieces, all rows go on together."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bamba_data.errors import UserError

from ..model.bamba import Bamba
from . import memory
from .forward import advance
from .memory import FILLED, OWN, Memory

PIECE_TOKENS = 2048  # of the prompts at once: what a piece takes of memory does not grow with the prompts


def written(
    model: Bamba, prompts: Sequence[Sequence[int]], new_tokens: int, choose: Callable[[Tensor], Sequence[int]]
) -> Iterator[list[int]]:
    """The next token of each row, step by step, `new_tokens` times at most; whoever has enough leaves off.

    A row's tokens are those that the whole model gives for all of the text so far, whatever the other rows are.

    Args:
        prompts: Token ids of each row, one at least; of any lengths.
        choose: Of the logits (rows, vocab_size), float32 on the model's device, the next token of each row.
    """
    if not prompts or not all(prompts):
        raise UserError("there is nothing to write on from: a prompt of one token at least is needed")
    device = model.head.weight.device
    longest = max(map(len, prompts))
    missing = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    places = torch.arange(longest, device=device)
    known = memory.empty(model, len(prompts), longest + new_tokens)
    for start in range(0, longest, PIECE_TOKENS):
        piece = slice(start, start + PIECE_TOKENS)
        fills = places[piece] < missing[:, None]
        documents = torch.where(fills, FILLED, OWN).int()
        positions = torch.where(fills, places[piece], places[piece] - missing[:, None])
        logits = advance(model, known, ids[:, piece], documents, positions)
    step = Step(model, known, longest - missing)
    for number in range(new_tokens):
        tokens = list(choose(logits.float()))
        yield tokens
        if number < new_tokens - 1:
            logits = step(torch.tensor(tokens, device=device))


class Step:
    """One token of each row. On a GPU the second call is captured as a graph, which the later ones replay: what a step
    launches is some hundreds of kernels of microseconds each."""

    def __init__(self, model: Bamba, known: Memory, positions: Tensor) -> None:
        """positions: (rows,) of the next token."""
        self.model, self.known = model, known
        self.ids = torch.zeros_like(positions)[:, None]
        self.positions = positions[:, None].clone()
        self.documents = torch.full_like(self.ids, OWN, dtype=torch.int32)
        config = model.config
        # rotary factors come from the host at each step, which a graph does not hold
        self.graphs = self.ids.is_cuda and config.rotary_factors is None and config.rotary_scale is None
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Tensor = torch.empty(0)

    def __call__(self, tokens: Tensor) -> Tensor:
        self.ids.copy_(tokens[:, None])
        self.calls += 1
        if self.graphs and self.calls == 2:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # captured, not run
                self._run()
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()
        return self.logits

    def _run(self) -> None:
        self.logits = advance(self.model, self.known, self.ids, self.documents, self.positions)
        self.positions += 1
