"""x + branch, and the RMSNorm of that, in Triton: one pass over memory, without gradients.

Between two layers of a model that writes a token at a time there is nothing else but these, on a few rows; as single
operations of torch they are eight launches of a GPU, each longer than its work. RMSNorm: arXiv 1910.07467.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch, on
from .math import wide

RESIDUAL_NORM = Launch(warps=8)


@triton.jit
def _residual_norm(x, branch, weight, total, normed, eps, width, WIDTH: tl.constexpr):
    column = tl.arange(0, WIDTH)
    live = column < width
    place = wide(tl.program_id(0)) * width + column
    row = tl.load(x + place, mask=live, other=0.0).to(tl.float32)
    row += tl.load(branch + place, mask=live, other=0.0).to(tl.float32)
    kept = row.to(total.dtype.element_ty)  # the next layer is given what is stored, and so is the norm
    tl.store(total + place, kept, mask=live)
    row = kept.to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row) / width + eps)
    result = row * scale * tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
    tl.store(normed + place, result.to(normed.dtype.element_ty), mask=live)


def residual_norm(x: Tensor, branch: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`ops.residual_norm`; both are contiguous."""
    width = x.shape[-1]
    total, normed = torch.empty_like(x), torch.empty(x.shape, dtype=dtype, device=x.device)
    with on(x):
        _residual_norm[(x.numel() // width,)](
            x, branch, weight, total, normed, eps, width,
            WIDTH=triton.next_power_of_2(width), **RESIDUAL_NORM.options(),
        )  # fmt: skip
    return total, normed
