"""A piece of each row through the model, from what it remembers of the rows: a piece of a prompt, or one token.

Between two layers one launch adds to the residual and norms it (`residual_norm`): a token of a few rows is so little
work that a GPU's time goes by launches.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.ops import mix_carried, residual_norm, step, swiglu_now
from ..kernels.shapes import Carried
from ..model.attention import Attention
from ..model.bamba import Bamba, Block
from ..model.mamba2 import Mamba2
from ..model.mlp import MLP
from ..model.norm import RMSNorm
from ..model.rotary import apply_rotary, rotary_angles
from .memory import Memory


class Piece(NamedTuple):
    """The same for all layers: documents (rows, tokens), their rotary angles, which keys they see (rows, 1, tokens,
    capacity_tokens), and where in the memory their own are."""

    documents: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor
    places: Tensor


@torch.no_grad()
def advance(model: Bamba, memory: Memory, ids: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
    """The logits behind the last token, (rows, vocab_size); `memory` then knows these tokens, too.

    Args:
        ids: (rows, tokens); where there is one token a row, all rows go on with it, and nothing waits for the host.
        documents: (rows, tokens) int32, `memory.FILLED` or `memory.OWN`.
        positions: (rows, tokens), of a token in its document.
    """
    places = memory.used + torch.arange(ids.shape[1], device=ids.device)
    memory.documents.index_copy_(1, places, documents)
    # no later place is a key, and none of the other document
    earlier = torch.arange(memory.capacity_tokens, device=ids.device)[None, :] <= places[:, None]
    mask = (memory.documents[:, None, :] == documents[:, :, None]) & earlier
    piece = Piece(documents, *rotary_angles(positions, model.config), mask[:, None], places)
    x = model.embedding(ids)
    if model.residual == "float32":
        x = x.float()
    compute = model.head.weight.dtype
    norms, layers = zip(*_layers(model, memory, piece), strict=True)
    h = norms[0](x, compute)
    for layer, norm in zip(layers, (*norms[1:], model.head.norm), strict=True):
        x, h = residual_norm(x, layer(h), norm.weight, norm.eps, compute)
    memory.used += ids.shape[1]
    logits: Tensor = h[:, -1] @ model.head.weight.T
    return logits


def _layers(model: Bamba, memory: Memory, piece: Piece) -> list[tuple[RMSNorm, Callable[[Tensor], Tensor]]]:
    """Every layer on its branch of the residual, with the norm before it."""
    layers: list[tuple[RMSNorm, Callable[[Tensor], Tensor]]] = []
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        if isinstance(block.mixer, Attention):
            layers.append((block.mixer_norm, partial(_attended, block.mixer, memory, number, piece)))
        elif block.mixer is not None:
            layers.append((block.mixer_norm, partial(_mixed, block.mixer, memory, number, piece)))
        if isinstance(block.mlp, MLP):
            layers.append((block.mlp_norm, partial(_fed, block.mlp)))
        elif block.mlp is not None:
            layers.append((block.mlp_norm, block.mlp))
    return layers


def _fed(mlp: MLP, x: Tensor) -> Tensor:
    out: Tensor = mlp.down(swiglu_now(mlp.gate_up(x)))
    return out


def _attended(mixer: Attention, memory: Memory, number: int, piece: Piece, x: Tensor) -> Tensor:
    q, k, v = mixer.qkv(x).unflatten(-1, (-1, mixer.head_dim)).split(mixer.splits, dim=2)
    keys, values = memory.keys[number], memory.values[number]
    keys.index_copy_(2, piece.places, apply_rotary(k, piece.cos, piece.sin).transpose(1, 2))
    values.index_copy_(2, piece.places, v.transpose(1, 2))
    q = apply_rotary(q, piece.cos, piece.sin).transpose(1, 2)
    attended = scaled_dot_product_attention(q, keys, values, attn_mask=piece.mask, enable_gqa=True)
    out: Tensor = mixer.out(attended.transpose(1, 2).flatten(2))
    return out


def _mixed(mixer: Mamba2, memory: Memory, number: int, piece: Piece, x: Tensor) -> Tensor:
    numbers = (mixer.groups, mixer.norm_groups, mixer.dt_min, mixer.dt_max)
    parameters = (mixer.conv_weight, mixer.conv_bias, mixer.A_log, mixer.D, mixer.dt_bias, mixer.norm_weight)
    carried, zxbcdt = memory.carried[number], mixer.in_proj(x)
    if x.shape[1] == 1 and carried is not None:
        mixed = step(zxbcdt, *parameters, carried, mixer.eps, *numbers)
    else:
        documents = piece.documents
        mixed, after = mix_carried(zxbcdt, *parameters, documents, mixer.eps, carried, False, *numbers)
        halo = torch.where((after.documents == documents[:, -1:])[..., None], after.halo, 0)  # `step` asks for it
        memory.carried[number] = Carried(after.state, halo.contiguous(), after.documents.contiguous())
    out: Tensor = mixer.out_proj(mixed)
    return out
