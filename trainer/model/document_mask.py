"""What every layer must know of a batch of packed rows: which token is whose document's, and where in it.

A row holds whole and cut documents one after the other. Attention, convolution and scan look only within a document,
and positions start at 0 in each.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


class PackedRows(NamedTuple):
    """documents: (batch, tokens) int32, ids that ascend along a row; cos, sin: (batch, tokens, 1, half the rotary
    width) float32; mask: which key a query may see, for `scaled_dot_product_attention` (batch, 1, tokens, tokens) or
    for `flex_attention`; None where the model has no attention."""

    documents: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor | BlockMask | None


def document_mask(documents: Tensor) -> Tensor:
    """(batch, 1, query, key): True where the key is not after the query and of the same document."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def document_block_mask(documents: Tensor) -> BlockMask:
    """The same, as flex_attention wants it: by blocks of 128 tokens, those that hold nothing to see are skipped."""
    batch, tokens = documents.shape

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    return create_block_mask(visible, batch, None, tokens, tokens, device=documents.device)
