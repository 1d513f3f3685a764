"""Attention within documents, for rows that hold several: from `seq_idx` of a batch, for whatever attention you use.

    scaled_dot_product_attention(q, k, v, attn_mask=sdpa_mask(batch["seq_idx"]))
    flex_attention(q, k, v, block_mask=create_block_mask(flex_mask(batch["seq_idx"]), rows, None, T, T))
    flash_attn_varlen_func(..., *varlen(batch["seq_idx"]))        # q, k, v as (rows * T, heads, head_dim)

All are causal, and none lets a token see another document, a row another row, or the fill of a row anything else.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Varlen(NamedTuple):
    """In the order in which flash_attn_varlen_func takes them: documents of rows laid end to end begin and end at
    `cu_seqlens_q` (int32, n + 1), and the longest has `max_seqlen_q` tokens."""

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


def sdpa_mask(seq_idx: Tensor) -> Tensor:
    """A mask for `scaled_dot_product_attention`. For long rows take one of the others: this has T² elements a row.

    Args:
        seq_idx: [rows, T], a batch's.

    Returns:
        bool [rows, 1, T, T], True where token i of a row may look at token j.
    """
    same = seq_idx[:, :, None] == seq_idx[:, None, :]
    return (same & torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril())[:, None]


def flex_mask(seq_idx: Tensor) -> MaskMod:
    """A `mask_mod` for torch's `create_block_mask`, where the row is the batch index; `seq_idx` is [rows, T]."""

    def same_document(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (seq_idx[row, query] == seq_idx[row, key]) & (query >= key)

    return same_document


def varlen(seq_idx: Tensor) -> Varlen:
    """Where documents begin in the rows laid end to end, from `seq_idx` [rows, T]: what the field `cu_seqlens` has."""
    rows, tokens = seq_idx.shape
    begins = torch.ones((rows, tokens), dtype=torch.bool, device=seq_idx.device)
    begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    ends = torch.tensor([rows * tokens], device=seq_idx.device)
    bounds = torch.cat([begins.flatten().nonzero().flatten(), ends]).to(torch.int32)
    # An int for the kernel's launch: on a GPU this waits for the device, once a batch.
    longest = int(bounds.diff().max()) if rows * tokens else 0
    return Varlen(bounds, bounds, longest, longest)
