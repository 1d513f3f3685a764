"""A Mamba2 mixer (arXiv 2405.21060, section 7.1): one linear in, then convolution, state-space scan and gated norm in
one op, one linear out."""

import math

import torch
from torch import Tensor, nn

from ..context.mix_op import mix_context
from ..kernels.ops import mix
from ..kernels.supported import CONV_WIDTH
from .config import ModelConfig
from .document_mask import PackedRows


class Mamba2(nn.Module):
    """The rows of `in_proj` make z | x | B | C | dt, B and C group by group. The vectors stay in float32 (the scan
    needs it: A_log and dt_bias pass through two exponentials). x, in and out: (batch, tokens, hidden_size)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.groups, self.norm_groups = config.mamba_groups, config.mamba_norm_groups
        self.dt_min = config.mamba_dt_min
        self.dt_max = math.inf if config.mamba_dt_max is None else config.mamba_dt_max
        self.in_proj = nn.Linear(
            config.hidden_size, config.inner_size + config.conv_channels + config.mamba_heads, bias=False
        )
        self.conv_weight = nn.Parameter(torch.empty(config.conv_channels, CONV_WIDTH))
        self.conv_bias = nn.Parameter(torch.empty(config.conv_channels))
        self.A_log = nn.Parameter(torch.empty(config.mamba_heads))
        self.D = nn.Parameter(torch.empty(config.mamba_heads))
        self.dt_bias = nn.Parameter(torch.empty(config.mamba_heads))
        self.norm_weight = nn.Parameter(torch.empty(config.inner_size))
        self.out_proj = nn.Linear(config.inner_size, config.hidden_size, bias=False)

    @property
    def out_dtype(self) -> torch.dtype:
        """What its products are computed in."""
        return self.out_proj.weight.dtype

    def forward(self, x: Tensor, rows: PackedRows) -> Tensor:
        vectors = (self.conv_weight, self.conv_bias, self.A_log, self.D, self.dt_bias, self.norm_weight)
        given = (self.in_proj(x), *vectors, rows.documents)
        numbers = (True, self.groups, self.norm_groups, self.dt_min, self.dt_max)
        if rows.documents_in is None:
            mixed = mix(*given, self.eps, *numbers)
        else:
            mixed = mix_context(*given, rows.documents_in, self.eps, rows.context, *numbers)
        return self.out_proj(mixed)  # type: ignore[no-any-return]
