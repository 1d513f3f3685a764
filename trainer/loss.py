"""Cross-entropy of a linear head, some rows of logits at a time, with the gradients made on the way.

The losses and the gradient of the logits come from the same logits, in place, so they are computed once and there is
one table of them: 2.1 GB in bfloat16 for 2 x 4,096 tokens of a vocabulary of 128,256, where a plain cross-entropy
holds four, two of them in float32. The price: only the sum of the losses can be differentiated. Liger's fused linear
cross-entropy (arXiv 2410.10989) does the same by a kernel of its own. `backward` of that sum alone passes the gradients
on as they are; behind any other function each is multiplied once more, 2 GB read and written. The weight's can go into
a sum over micro-batches instead, already in the forward.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .compiled import fused as one_kernel
from .kernels.add_product_op import GradientSum, add_product

IGNORED = -100
_ONES: dict[torch.device, Tensor] = {}  # the gradients that `backward` begins with; known by their place in memory


def summed_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: Tensor,
    chunk_tokens: int,
    *,
    fused: bool = False,
    into: GradientSum | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(hidden @ weight.T), in nats.

    Args:
        hidden: (…, features).
        weight: (vocabulary, features), in the dtype of hidden.
        labels: (…) int64; -100 is no target.
        scale: () float32. It belongs in here, and not behind, because it is applied in float32; whatever comes behind
            is applied in the dtype of the weight.
        chunk_tokens: So many rows of logits are there at once.
        fused: Compile the softmax into one kernel, for a GPU.
        into: The weight's gradient is added to this, and autograd has none; `backward` must be what follows.

    Returns:
        `scale` times the sum of all losses, which has a gradient, and the losses one by one in the shape of `labels`,
        unscaled, which have none; float32, 0 where the label is -100.
    """
    softmax = _logit_gradients_fused if fused else _logit_gradients
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _SummedLoss.apply(hidden, weight, labels, scale, chunk_tokens, softmax, learning, into)  # type: ignore[no-untyped-call, no-any-return]


def backward(total: Tensor) -> None:
    """Make the gradients of a sum of `summed_loss`, by which nothing else was computed."""
    one = _ONES.get(total.device)
    if one is None:
        one = _ONES[total.device] = torch.ones((), device=total.device)
    torch.autograd.backward(total, one)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        scale: Tensor,
        chunk_tokens: int,
        softmax: Callable[[Tensor, Tensor, Tensor], Tensor],
        learning: bool,
        into: GradientSum | None,
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        flat, rows, wanted = losses.view(-1), hidden.flatten(0, -2), labels.flatten()
        into_hidden = torch.empty_like(rows) if learning else None
        into_weight: Tensor | None = None
        for at in range(0, len(wanted), chunk_tokens):
            part = slice(at, at + chunk_tokens)
            logits = rows[part] @ weight.T
            flat[part] = softmax(logits, wanted[part], scale)
            if into_hidden is not None:
                into_hidden[part] = logits @ weight  # logits now hold their gradient
                if into is not None:
                    add_product(into, logits, rows[part])
                    into = into.later()
                    continue
                product = logits.T @ rows[part]
                into_weight = product if into_weight is None else into_weight.float().add_(product)
        if into_hidden is not None:
            own = None if into_weight is None else into_weight.to(weight.dtype)
            ctx.save_for_backward(into_hidden.view(hidden.shape), own)
        ctx.mark_non_differentiable(losses)
        return losses.sum() * scale, losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        into_hidden, into_weight = ctx.saved_tensors
        one = _ONES.get(grad.device)
        if one is not None and grad.data_ptr() == one.data_ptr():
            return into_hidden, into_weight, *[None] * 6
        assert into_weight is not None, "the weight's gradient is in its sum: nothing can be multiplied by it any more"
        return into_hidden * grad.to(into_hidden.dtype), into_weight * grad.to(into_weight.dtype), *[None] * 6


def _logit_gradients(logits: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Turn logits (tokens, vocabulary) into the gradient of the scaled sum of losses, in place; return the losses."""
    real = labels != IGNORED
    chosen = torch.where(real, labels, 0)[:, None]
    wide = logits.float()  # itself, where it is float32 already
    top, picked = wide.amax(-1, keepdim=True), wide.gather(-1, chosen)
    powers = wide.sub_(top).exp_()
    total = powers.sum(-1, keepdim=True)
    share = (real * scale)[:, None]
    slopes = powers.mul_(share / total).scatter_add_(-1, chosen, -share)
    if wide is not logits:
        logits.copy_(slopes)
    return torch.where(real, (total.log() + top - picked)[:, 0], 0.0)


@one_kernel
def _logit_gradients_fused(logits: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The same without an operation that a compiler could not fuse, as the scatter is one."""
    real = labels != IGNORED
    chosen = torch.where(real, labels, 0)[:, None]
    wide = logits.float()
    top, picked = wide.amax(-1, keepdim=True), wide.gather(-1, chosen)
    powers = (wide - top).exp()
    total = powers.sum(-1, keepdim=True)
    hit = torch.arange(logits.shape[-1], device=logits.device) == chosen
    logits.copy_((powers / total - hit.float()) * (real * scale)[:, None])
    return torch.where(real, (total.log() + top - picked)[:, 0], 0.0)
