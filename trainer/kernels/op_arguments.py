"""What the definitions of ops share: a schema's tensors, and gradients as autograd wants them."""

from collections.abc import Sequence

from torch import Tensor


def tensor_arguments(names: Sequence[str]) -> str:
    """A part of an op's schema; torch infers one from a signature only where that spells every tensor again."""
    return ", ".join(f"Tensor {name}" for name in names)


def gradients_of_inputs(found: Sequence[Tensor], inputs: int) -> list[Tensor | None]:
    """Gradients where an op's inputs stand: of its seven parameters and large tensors, then of what entered."""
    first, entered = found[:7], found[7:]
    missing = inputs - len(first) - 1 - len(entered)
    return [*first, None, *entered, *[None] * missing]  # documents have none
