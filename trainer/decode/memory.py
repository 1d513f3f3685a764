"""What a model remembers of the rows it writes on: states and halos of Mamba2 layers, keys and values of attention.

All rows end at the same place: a shorter prompt is filled up on its left with a document of its own, which no layer
lets another document see. So a row's numbers do not depend on the others of its batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.shapes import Carried
from ..model.bamba import Bamba

FILLED, OWN = 0, 1  # documents of a row: what fills it up on its left, and the text


@dataclass(slots=True)
class Memory:
    """Of a batch of rows.

    carried: by layer, of Mamba2; None before the first piece.
    keys, values: by layer, of attention: (batch, kv_heads, capacity_tokens, head_dim).
    documents: (batch, capacity_tokens) int32; -1 where no token is yet.
    used: (1,) int64 on the device: tokens of each row so far, those that fill up counted.
    """

    carried: dict[int, Carried | None]
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    documents: Tensor
    used: Tensor

    @property
    def capacity_tokens(self) -> int:
        return self.documents.shape[1]


def empty(model: Bamba, rows: int, capacity_tokens: int) -> Memory:
    """For so many rows of at most so many tokens, in the dtype that the model computes in."""
    config = model.config
    matrix = model.head.weight
    shape = (rows, config.kv_heads, capacity_tokens, config.head_dim)
    return Memory(
        carried=dict.fromkeys(config.mamba_indices),
        keys={layer: matrix.new_zeros(shape) for layer in config.attention_indices},
        values={layer: matrix.new_zeros(shape) for layer in config.attention_indices},
        documents=torch.full((rows, capacity_tokens), -1, dtype=torch.int32, device=matrix.device),
        used=torch.zeros(1, dtype=torch.int64, device=matrix.device),
    )


def bytes_of(model: Bamba, rows: int, capacity_tokens: int) -> int:
    """What `empty` takes once texts are in it."""
    config, number = model.config, model.head.weight.element_size()
    keys = 2 * len(config.attention_indices) * config.kv_heads * config.head_dim * capacity_tokens * number
    state = config.inner_size * config.mamba_state * 4 + 3 * config.conv_channels * number
    return rows * (keys + len(config.mamba_indices) * state + 4 * capacity_tokens)
