"""Causal attention within documents: grouped keys and values (arXiv 2305.13245), rotary positions (rotary.py) on the
first part of each head.

Where ranks share rows, each has its part's queries and the keys and values of the whole rows (context/gather_op.py).
By flex_attention, which skips what a mask hides by blocks, or by scaled_dot_product_attention, of all queries at once
or of some at a time, as the mask says.
"""

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from ..context.gather_op import gather_tokens
from .config import ModelConfig
from .document_mask import PackedRows, QueryBlocks
from .rotary import apply_rotary


class Attention(nn.Module):
    """`qkv` holds the rows of q, then k, then v. x, in and out: (batch, tokens, hidden_size)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.splits = [config.attention_heads, config.kv_heads, config.kv_heads]
        self.qkv = nn.Linear(config.hidden_size, sum(self.splits) * self.head_dim, bias=False)
        self.out = nn.Linear(config.attention_size, config.hidden_size, bias=False)

    @property
    def out_dtype(self) -> torch.dtype:
        """What its products are computed in."""
        return self.out.weight.dtype

    def forward(self, x: Tensor, rows: PackedRows) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).split(self.splits, dim=2)
        q, k = apply_rotary(q, rows.cos, rows.sin), apply_rotary(k, rows.cos, rows.sin)
        if rows.context.ranks > 1:
            k, v = gather_tokens(torch.cat([k, v], 2), rows.context).chunk(2, 2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if isinstance(rows.mask, BlockMask):
            attended = flex_attention(q, k, v, block_mask=rows.mask, enable_gqa=True)
        elif isinstance(rows.mask, QueryBlocks):
            parts = [
                scaled_dot_product_attention(
                    q[:, :, own], k[:, :, seen], v[:, :, seen], attn_mask=mask, enable_gqa=True
                )
                for own, seen, mask in rows.mask.masks()
            ]
            attended = torch.cat(parts, 2)
        else:
            attended = scaled_dot_product_attention(q, k, v, attn_mask=rows.mask, enable_gqa=True)
        assert isinstance(attended, Tensor)  # flex_attention gives a pair where it is asked for more
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
