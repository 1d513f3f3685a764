"""Cross-entropy of a linear head, a few rows of logits at a time: the whole table of logits never exists.

At 2 x 4,096 tokens and a vocabulary of 128,256 the logits and their gradient would take 8.4 GB in float32; a chunk of
1,024 tokens takes 0.5 GB. The gradients are made in the forward, from the same logits as the losses, so nothing is
computed twice; the price is that only the sum of the losses can be differentiated. The head's gradient is summed over
chunks in float32.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100


def summed_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, scale: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """`scale` times the sum of -log softmax(hidden @ weight.T)[label], which has a gradient, and the losses one by one
    in the shape of `labels`, unscaled, which have none; float32, 0 where the label is -100.

    hidden: (…, features), weight: (vocabulary, features), labels: int64, scale: () float32. The scale belongs in here,
    and not behind, because it is applied in float32; whatever comes behind is applied in the dtype of the weight.
    """
    return _SummedLoss.apply(hidden, weight, labels, scale, chunk_tokens)  # type: ignore[no-untyped-call, no-any-return]


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, scale: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        flat, rows, wanted = losses.view(-1), hidden.flatten(0, -2), labels.flatten()
        learning = any(ctx.needs_input_grad)
        into_hidden = torch.empty_like(rows) if learning else None
        into_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if learning else None
        for at in range(0, len(wanted), chunk_tokens):
            part = slice(at, at + chunk_tokens)
            logits = (rows[part] @ weight.T).float()
            real = wanted[part] != IGNORED
            chosen = torch.where(real, wanted[part], 0)[:, None]
            top, picked = logits.amax(-1, keepdim=True), logits.gather(-1, chosen)
            powers = logits.sub_(top).exp_()  # in place: a chunk of logits is the largest tensor there is
            total = powers.sum(-1, keepdim=True)
            flat[part] = torch.where(real, (total.log() + top - picked)[:, 0], 0.0)
            if into_hidden is not None and into_weight is not None:
                share = (real * scale)[:, None]
                slope = powers.mul_(share / total).scatter_add_(-1, chosen, -share).to(weight.dtype)
                into_hidden[part] = slope @ weight
                into_weight += slope.T @ rows[part]
        if into_hidden is not None and into_weight is not None:
            ctx.save_for_backward(into_hidden.view(hidden.shape), into_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return losses.sum() * scale, losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        into_hidden, into_weight = ctx.saved_tensors
        return into_hidden * grad.to(into_hidden.dtype), into_weight * grad.to(into_weight.dtype), None, None, None
