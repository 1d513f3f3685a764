"""How likely continuations are after their contexts, many in one packed row: no padding, whatever their lengths.

    scored = score(model, [Continuation(context_ids, continuation_ids), ...], row_tokens=8192, batch=32)

Sequences lie one after the other in a row, each a document of its own, as in training: attention, convolution and scan
stay within it. Logits are made only where a continuation is predicted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.bamba import Bamba


@dataclass(frozen=True, slots=True)
class Continuation:
    """Token ids; neither may be empty. `log_probability` of a continuation is the sum over its tokens, in nats."""

    context: Sequence[int]
    continuation: Sequence[int]

    def cut(self, max_tokens: int) -> "Continuation":
        """The end of it that a model of `max_tokens` inputs can see (the last token is no input): what is oldest goes.

        A continuation that alone is longer loses its own beginning, as in the harness's backend for transformers.
        """
        both = [*self.context, *self.continuation][-(max_tokens + 1) :]
        scored = min(len(self.continuation), len(both) - 1)
        return Continuation(both[: len(both) - scored], both[len(both) - scored :])

    @property
    def inputs(self) -> int:
        return len(self.context) + len(self.continuation) - 1


@dataclass(frozen=True, slots=True)
class Score:
    """In nats; `is_greedy`: every token was the likeliest one."""

    log_probability: float
    is_greedy: bool


def score(model: Bamba, asked: Sequence[Continuation], row_tokens: int, batch: int) -> list[Score]:
    """One score for each, in the order asked; at most `batch` sequences and `row_tokens` tokens go through at once.

    A sequence that is longer than `row_tokens` goes alone. The same sequence is computed once.
    """
    distinct = {(tuple(one.context), tuple(one.continuation)): one for one in asked}
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Score] = {}
    for row in _rows(list(distinct.values()), row_tokens, batch):
        for one, scored in zip(row, _score_row(model, row), strict=True):
            found[tuple(one.context), tuple(one.continuation)] = scored
    return [found[tuple(one.context), tuple(one.continuation)] for one in asked]


def _rows(asked: list[Continuation], row_tokens: int, batch: int) -> Iterator[list[Continuation]]:
    """The longest first: what does not fit into memory fails at once."""
    row: list[Continuation] = []
    for one in sorted(asked, key=lambda one: -one.inputs):
        if row and (len(row) == batch or sum(other.inputs for other in row) + one.inputs > row_tokens):
            yield row
            row = []
        row.append(one)
    if row:
        yield row


@torch.no_grad()
def _score_row(model: Bamba, row: list[Continuation]) -> list[Score]:
    inputs = [[*one.context, *one.continuation][:-1] for one in row]
    device = model.head.weight.device
    ids = torch.tensor([token for one in inputs for token in one], device=device)
    counts = torch.tensor([len(one) for one in inputs], device=device)
    documents = torch.arange(len(row), device=device).repeat_interleave(counts).int()
    positions = torch.cat([torch.arange(len(one), device=device) for one in inputs])
    at, end = [], 0
    for one in row:
        end += one.inputs
        at.append(torch.arange(end - len(one.continuation), end, device=device))
    logits = logits_at(model, ids, documents, positions, torch.cat(at))
    wanted = torch.tensor([token for one in row for token in one.continuation], device=device)
    chosen = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1)
    greedy = logits.argmax(1) == wanted
    lengths = [len(one.continuation) for one in row]
    pairs = zip(torch.split(chosen.double(), lengths), torch.split(greedy, lengths), strict=True)
    return [Score(float(values.sum()), bool(hits.all())) for values, hits in pairs]


def logits_at(model: Bamba, ids: Tensor, documents: Tensor, positions: Tensor, at: Tensor) -> Tensor:
    """(places, vocab_size) float32: the logits of one packed row at the places `at` alone.

    All of a row's would be gigabytes where a vocabulary is large.

    Args:
        ids, documents, positions: (tokens,), as `Bamba` takes them, without the dimension of rows.
        at: (places,) indices into the row.
    """
    rows = model.rows(documents[None], positions[None])
    x: Tensor = model.embedding(ids[None])
    if model.residual == "float32":
        x = x.float()
    for block in model.blocks:
        x = block(x, rows)
    logits: Tensor = model.head(x[:, at], None, torch.ones((), device=x.device), model.chunk_tokens)
    return logits[0].float()
