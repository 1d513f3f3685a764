"""What the definitions of ops share: a schema's tensors, gradients as autograd wants them, and the way to an op."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def tensor_arguments(names: Sequence[str]) -> str:
    """A part of an op's schema; torch infers one from a signature only where that spells every tensor again."""
    return ", ".join(f"Tensor {name}" for name in names)


def gradients_of_inputs(found: Sequence[Tensor], inputs: int) -> list[Tensor | None]:
    """Gradients where an op's inputs stand: of its seven parameters and large tensors, then of what entered."""
    first, entered = found[:7], found[7:]
    missing = inputs - len(first) - 1 - len(entered)
    return [*first, None, *entered, *[None] * missing]  # documents have none


def quick(op: Callable[..., Any], save: Callable[..., None], gradients: Callable[..., Any]) -> Callable[..., Any]:
    """The op, called from Python without torch's own way to what `register_autograd` was given.

    On that way torch (2.11, 2.13) asks for the schema once for each argument and copies it each time: of an op with
    eighteen arguments a tenth of a millisecond, as long as four launches. A graph that is compiled has it behind
    itself, and needs what is registered. The transforms of torch.func are refused on this way, by torch.
    """

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = op(*inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return gradients(ctx, *grads)

    def called(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return op(*inputs)
        return Function.apply(*inputs)

    return called
