"""A piece of each row through the model, from what it remembers of the rows: a piece of a prompt, or one token."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.ops import mix_carried, step
from ..kernels.shapes import Carried
from ..model.attention import Attention
from ..model.bamba import Bamba, Block
from ..model.mamba2 import Mamba2
from ..model.rotary import apply_rotary, rotary_angles
from .memory import Memory


@torch.no_grad()
def advance(model: Bamba, memory: Memory, ids: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
    """The logits behind the last token, (rows, vocab_size); `memory` then knows these tokens, too.

    Args:
        ids: (rows, tokens); where there is one token a row, all rows go on with it, and nothing waits for the host.
        documents: (rows, tokens) int32, `memory.FILLED` or `memory.OWN`.
        positions: (rows, tokens), of a token in its document.
    """
    cos, sin = rotary_angles(positions, model.config)
    tokens = ids.shape[1]
    places = memory.used + torch.arange(tokens, device=ids.device)
    memory.documents.index_copy_(1, places, documents)
    # no later place is a key, and none of the other document
    earlier = torch.arange(memory.capacity_tokens, device=ids.device)[None, :] <= places[:, None]
    mask = (memory.documents[:, None, :] == documents[:, :, None]) & earlier
    x = model.embedding(ids)
    if model.residual == "float32":
        x = x.float()
    compute = model.head.weight.dtype
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        h = block.mixer_norm(x, compute)
        if isinstance(block.mixer, Attention):
            x = x + _attended(block.mixer, h, cos, sin, mask[:, None], memory, layer, places)
        else:
            x = x + _mixed(block.mixer, h, documents, memory, layer)
        x = x + block.mlp(block.mlp_norm(x, compute))
    memory.used += tokens
    logits: Tensor = model.head.norm(x[:, -1], compute) @ model.head.weight.T
    return logits


def _attended(
    mixer: Attention, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, memory: Memory, layer: int, places: Tensor
) -> Tensor:
    q, k, v = mixer.qkv(x).unflatten(-1, (-1, mixer.head_dim)).split(mixer.splits, dim=2)
    keys, values = memory.keys[layer], memory.values[layer]
    keys.index_copy_(2, places, apply_rotary(k, cos, sin).transpose(1, 2))
    values.index_copy_(2, places, v.transpose(1, 2))
    q = apply_rotary(q, cos, sin).transpose(1, 2)
    attended = scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
    out: Tensor = mixer.out(attended.transpose(1, 2).flatten(2))
    return out


def _mixed(mixer: Mamba2, x: Tensor, documents: Tensor, memory: Memory, layer: int) -> Tensor:
    groups = (mixer.groups, mixer.norm_groups)
    parameters = (mixer.conv_weight, mixer.conv_bias, mixer.A_log, mixer.D, mixer.dt_bias, mixer.norm_weight)
    carried, zxbcdt = memory.carried[layer], mixer.in_proj(x)
    if x.shape[1] == 1 and carried is not None:
        mixed = step(zxbcdt, *parameters, carried, mixer.eps, *groups)
    else:
        mixed, after = mix_carried(zxbcdt, *parameters, documents, mixer.eps, carried, False, *groups)
        halo = torch.where((after.documents == documents[:, -1:])[..., None], after.halo, 0)  # `step` asks for it
        memory.carried[layer] = Carried(after.state, halo.contiguous(), after.documents.contiguous())
    out: Tensor = mixer.out_proj(mixed)
    return out
