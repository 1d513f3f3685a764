"""Cross-entropy of a linear head, a few rows of logits at a time: the whole table of logits never exists.

At 2 x 4,096 tokens and a vocabulary of 128,256 the logits and their gradient would take 8.4 GB in float32; a chunk
of 1,024 tokens takes 0.5 GB. Losses come out in the forward; the backward makes the logits of each chunk again (the
price: one product of the head more, 2 of 55 GFLOP a token) and sums the head's gradient in float32.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100


def token_losses(hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
    """-log softmax(hidden @ weight.T)[label] in float32, in the shape of `labels`, 0 where the label is -100.

    hidden: (…, features), weight: (vocabulary, features), labels: int64.
    """
    return _Losses.apply(hidden, weight, labels, chunk_tokens)  # type: ignore[no-untyped-call, no-any-return]


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
        losses = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        hidden, labels, flat = hidden.flatten(0, -2), labels.flatten(), losses.view(-1)
        norms = torch.empty_like(flat)  # the log of each softmax's denominator, for the backward
        for at in range(0, len(labels), chunk_tokens):
            part = slice(at, at + chunk_tokens)
            flat[part], norms[part] = _chunk_losses(hidden[part], weight, labels[part])
        ctx.save_for_backward(hidden, weight, labels, norms)
        ctx.chunk_tokens, ctx.shape = chunk_tokens, losses.shape
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, norms = ctx.saved_tensors
        chunk, grad = ctx.chunk_tokens, grad.flatten()
        into_hidden = torch.empty_like(hidden)
        into_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for at in range(0, len(labels), chunk):
            part = slice(at, at + chunk)
            slope = _chunk_slope(hidden[part], weight, labels[part], norms[part], grad[part])
            into_hidden[part] = slope @ weight
            into_weight += slope.T @ hidden[part]
        return into_hidden.view(*ctx.shape, -1), into_weight.to(weight.dtype), None, None


def _chunk_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = (hidden @ weight.T).float()
    norms = logits.logsumexp(-1)
    real = labels != IGNORED
    chosen = logits.gather(-1, torch.where(real, labels, 0)[:, None])[:, 0]
    return torch.where(real, norms - chosen, 0.0), norms


def _chunk_slope(hidden: Tensor, weight: Tensor, labels: Tensor, norms: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the chunk's logits, in the dtype of the head."""
    logits = (hidden @ weight.T).float()
    real = labels != IGNORED
    slope = torch.exp(logits - norms[:, None])
    slope.scatter_add_(-1, torch.where(real, labels, 0)[:, None], -torch.ones_like(norms)[:, None])
    return (slope * torch.where(real, grad, 0.0)[:, None]).to(weight.dtype)
