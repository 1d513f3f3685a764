"""What the update's kernel computes before it rounds, as a kernel: the part itself, and stores of float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.kernels.adamw_step import moved_by


@triton.jit
def _unrounded(weight, grad, first, second, numbers, out, count, rest1, rest2, BLOCK: tl.constexpr):
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = element < count
    stepped, mean, square = moved_by(
        tl.load(weight + element, mask=live), tl.load(grad + element, mask=live),
        tl.load(first + element, mask=live), tl.load(second + element, mask=live),
        tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3), rest1, rest2,
    )  # fmt: skip
    tl.store(out + element, stepped, mask=live)
    tl.store(out + count + element, mean, mask=live)
    tl.store(out + 2 * count + element, square, mask=live)


def unrounded(given: list[Tensor], numbers: Tensor, beta1: float, beta2: float) -> Tensor:
    """Of weight, gradient and moments in float32: the new weight and moments."""
    count = given[0].numel()
    out = torch.empty(3, count, device=numbers.device)
    _unrounded[(triton.cdiv(count, 4096),)](*given, numbers, out, count, 1 - beta1, 1 - beta2, BLOCK=4096)
    return out
