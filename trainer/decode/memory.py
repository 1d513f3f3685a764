"""What a model remembers of the rows it writes on: states and halos of Mamba2 layers, keys and values of attention.

All rows end at the same place: a shorter prompt is filled up on its left with a document of its own, which no layer
lets another document see. So a row's numbers do not depend on the others of its batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

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


def carried_of(memory: Memory) -> dict[int, Carried | None]:
    """A copy of the states and halos: a step changes them in place."""
    return {layer: _copied(carried) for layer, carried in memory.carried.items()}


def take_back(memory: Memory, tokens: int, carried: Mapping[int, Carried | None]) -> None:
    """Forget all but the first `tokens`, behind which `carried` was copied. Later places of keys and values are written
    again before they are looked at."""
    memory.used.fill_(tokens)
    memory.carried = {layer: _copied(kept) for layer, kept in carried.items()}


def _copied(carried: Carried | None) -> Carried | None:
    return None if carried is None else Carried(*(tensor.clone() for tensor in carried))


def grown(memory: Memory, capacity_tokens: int) -> Memory:
    """The same with more room; what it was made of is not to be used any more."""
    more = capacity_tokens - memory.capacity_tokens
    return Memory(
        carried=memory.carried,
        keys={layer: pad(keys, (0, 0, 0, more)) for layer, keys in memory.keys.items()},
        values={layer: pad(values, (0, 0, 0, more)) for layer, values in memory.values.items()},
        documents=pad(memory.documents, (0, more), value=-1),
        used=memory.used,
    )


def bytes_of(model: Bamba, rows: int, capacity_tokens: int) -> int:
    """What `empty` takes once texts are in it."""
    config, number = model.config, model.head.weight.element_size()
    keys = 2 * len(config.attention_indices) * config.kv_heads * config.head_dim * capacity_tokens * number
    state = config.inner_size * config.mamba_state * 4 + 3 * config.conv_channels * number
    return rows * (keys + len(config.mamba_indices) * state + 4 * capacity_tokens)
