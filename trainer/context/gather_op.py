"""`bamba::gather_tokens`: the tokens of all parts of the rows end to end, with their gradients on the way back.

Attention layers ask for the keys and values of the whole row: few heads have them, and few layers attend.
"""

from typing import Any

import torch
from torch import Tensor

from .exchange import end_to_end, summed_parts
from .group import ContextGroup

_GROUP = "str name, int rank, int ranks"


@torch.library.custom_op("bamba::gather_tokens", mutates_args=(), schema=f"(Tensor part, {_GROUP}) -> Tensor")
def _gather(part: Tensor, *group: Any) -> Tensor:
    return end_to_end(part, ContextGroup(*group))


@_gather.register_fake
def _(part: Tensor, name: str, rank: int, ranks: int) -> Tensor:
    return part.new_empty((part.shape[0], ranks * part.shape[1], *part.shape[2:]))


@torch.library.custom_op("bamba::sum_parts", mutates_args=(), schema=f"(Tensor rows, {_GROUP}) -> Tensor")
def _sum(rows: Tensor, *group: Any) -> Tensor:
    return summed_parts(rows, ContextGroup(*group))


@_sum.register_fake
def _(rows: Tensor, name: str, rank: int, ranks: int) -> Tensor:
    return rows.new_empty((rows.shape[0], rows.shape[1] // ranks, *rows.shape[2:]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.group = inputs[1:]


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.bamba.sum_parts(grad, *ctx.group), None, None, None


_gather.register_autograd(_gradient, setup_context=_save)


def gather_tokens(part: Tensor, group: ContextGroup) -> Tensor:
    """(batch, tokens, …) of a part as (batch, ranks * tokens, …) of the whole rows, the same on every rank of the
    group. A gradient is the sum of what all ranks make of the part that is held here."""
    return torch.ops.bamba.gather_tokens(part, *group)  # type: ignore[no-any-return]
