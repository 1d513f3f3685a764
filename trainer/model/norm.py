"""RMSNorm (arXiv 1910.07467): x / rms(x) * weight, computed in float32 and returned in the dtype that the linear behind
it computes in."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Over the last dimension, `size` wide. The weight stays in float32 whatever the model computes in."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()
        return normed.to(dtype)
