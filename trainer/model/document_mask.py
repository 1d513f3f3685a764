"""What every layer must know of a batch of packed rows: which token is whose document's, and where in it.

A row holds whole and cut documents one after the other. Attention, convolution and scan look only within a document,
and positions start at 0 in each. Where all pairs of tokens are too many for a mask, it is made for some queries at a
time (`QueryBlocks`), or by blocks (`document_block_mask`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ..context.group import ALONE, ContextGroup

BLOCK = 128  # tokens: flex_attention's own
#: Of a query and a key that a mask holds at once: 200 MiB on a CPU, where attention makes it float32.
MASK_PAIRS = 1 << 24
ALIGN = 512  # keys: where attention on a CPU begins anew, so that what is left out before changes no bit


class QueryBlocks(NamedTuple):
    """What `document_mask` is given; and for each block of `queries` queries the place of the first key that it is
    shown, before which only other documents lie."""

    documents: Tensor
    keys: Tensor
    before: int
    queries: int
    first_keys: tuple[int, ...]

    def masks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Some queries, the keys that are left of them, and their mask, which is made when it is asked for."""
        for number, first in enumerate(self.first_keys):
            begin = number * self.queries
            own = slice(begin, min(begin + self.queries, self.documents.shape[1]))
            seen = slice(first, own.stop + self.before)
            place = own.start + self.before - first
            yield own, seen, document_mask(self.documents[:, own], self.keys[:, seen], place)


class PackedRows(NamedTuple):
    """documents: (batch, tokens) int32, ids that ascend along a row; cos, sin: (batch, tokens, 1, half the rotary
    width) float32; mask: which key a query may see, for `scaled_dot_product_attention` (batch, 1, tokens, keys), whole
    or of some queries at a time, or for `flex_attention`; None where the model has no attention.

    Where the rows are parts of longer ones, `context` is this rank among those that hold them, keys are those of the
    whole rows, and documents_in, (batch, 3) int32, are of the three tokens before the part, -1 before the first one."""

    documents: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor | QueryBlocks | BlockMask | None
    context: ContextGroup = ALONE
    documents_in: Tensor | None = None


def document_mask(documents: Tensor, keys: Tensor | None = None, before: int = 0) -> Tensor:
    """(batch, 1, query, key): True where the key is not after the query and of the same document.

    Args:
        documents: (batch, tokens), of the queries.
        keys: (batch, tokens), of the keys; those of the queries without it.
        before: The place of the first query among the keys.
    """
    keys = documents if keys is None else keys
    same = documents[:, :, None] == keys[:, None, :]
    return same.tril(before)[:, None]


def document_masks(documents: Tensor, keys: Tensor, before: int, *, skip: bool) -> Tensor | QueryBlocks:
    """`document_mask`, or where that is more than MASK_PAIRS, how to make it for some queries at a time.

    Args:
        skip: Leave out keys of earlier documents, for which the host must know where those end: not in a compiled
            graph, which would be compiled anew for each batch.
    """
    rows, tokens = documents.shape
    if rows * tokens * keys.shape[1] <= MASK_PAIRS:
        return document_mask(documents, keys, before)
    queries = max(1, MASK_PAIRS // (rows * keys.shape[1]))
    first_keys = [0] * -(-tokens // queries)
    if skip:
        begins = torch.searchsorted(keys.contiguous(), documents[:, ::queries].contiguous())
        first_keys = (begins.amin(0) // ALIGN * ALIGN).tolist()
    return QueryBlocks(documents, keys, before, queries, tuple(first_keys))


def document_block_mask(documents: Tensor, keys: Tensor | None = None, before: int = 0) -> BlockMask:
    """The same, as flex_attention wants it: by blocks of 128 tokens, those that hold nothing to see are skipped.

    Documents ascend, so the first and last of a block tell what it holds, and no table of all pairs of tokens is made:
    of 131,072 it would be 16 GiB.
    """
    keys = documents if keys is None else keys

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query + before >= key) & (documents[row, query] == keys[row, key])

    first_query, last_query, least, most = (end[:, :, None] for end in _block_ends(documents, before))
    first_key, last_key, lowest, highest = (end[:, None, :] for end in _block_ends(keys, 0))
    seen = (last_query >= first_key) & (highest >= least) & (lowest <= most)
    whole = (first_query >= last_key) & (least == most) & (lowest == highest) & (lowest == least)
    whole &= (last_query - first_query == BLOCK - 1) & (last_key - first_key == BLOCK - 1)  # what lies behind is hidden
    partly, wholly = (_listed_blocks(which[:, None]) for which in (seen & ~whole, seen & whole))
    return BlockMask.from_kv_blocks(
        *partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(documents.shape[1], keys.shape[1])
    )


def _block_ends(documents: Tensor, before: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each block the places of its first and last token, (1, blocks), and their documents, (batch, blocks)."""
    tokens = documents.shape[1]
    first = torch.arange(0, tokens, BLOCK, device=documents.device)
    last = (first + BLOCK - 1).clamp(max=tokens - 1)
    return first[None] + before, last[None] + before, documents[:, first], documents[:, last]


def _listed_blocks(which: Tensor) -> tuple[Tensor, Tensor]:
    """(how many blocks of keys, their numbers first) of each block of queries."""
    return which.sum(-1, dtype=torch.int32), which.logical_not().argsort(dim=-1, stable=True).int()
