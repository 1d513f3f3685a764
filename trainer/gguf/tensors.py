"""What each tensor of a model of ours is called in a GGUF file, and in which order its rows stand there.

    for piece in gguf_tensors(config):
        values = piece.in_their_shape(rows_of_ours)

Two things differ from ours, besides the names. llama.cpp turns neighbours (2i, 2i + 1) where we turn feature i with
feature i + half the rotary width, so the rows of q and k are interleaved: those that are turned, and no others (where
only the first half of a head is turned, interleaving all of its rows makes a file that opens and computes something
else). And it holds A itself, not its logarithm.

Source: the loader and the graph of `granite-hybrid` and `granite` in llama.cpp, of November 2026.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..hf.rotary_fields import base_of, divisors_of, is_scaled
from ..kernels.supported import CONV_WIDTH
from ..model.config import ModelConfig
from ..model.rotary import frequencies

#: The name of the architecture with Mamba layers, and of the one that has attention only.
HYBRID, ATTENTION_ONLY = "granitehybrid", "granite"


def architecture(config: ModelConfig) -> str:
    """`general.architecture` of a file."""
    return ATTENTION_ONLY if len(config.attention_indices) == config.layers else HYBRID


class GgufTensor(NamedTuple):
    """`name` is made of rows [start, end) of `ours`.

    Attributes:
        shape: As numpy and torch count it; GGUF counts from the other end.
        matrix: Multiplies tokens, so it may be stored in less than float32. llama.cpp wants the others in float32.
        change: What is done to the rows before they are written.
    """

    name: str
    ours: str
    start: int
    end: int
    shape: tuple[int, ...]
    matrix: bool = True
    change: Callable[[Tensor], Tensor] | None = None

    def in_their_shape(self, rows: Tensor) -> Tensor:
        """Rows [start, end) of ours, as the file has them."""
        return (self.change(rows) if self.change else rows).reshape(self.shape)


def rotary_divisors(config: ModelConfig) -> dict[str, Tensor]:
    """What divides each frequency of the rotation, where they are changed for longer texts; by its name in the file."""
    if not is_scaled(config):
        return {}
    divisors = divisors_of(frequencies(config), base_of(config), config.rotary_width)
    return {"rope_freqs.weight": torch.tensor(divisors)}


def neighbours(rows: Tensor, head_dim: int, rotary_width: int) -> Tensor:
    """Rows of q or k for a reader that turns neighbours; (heads * head_dim, ...) in and out.

    In each head, row i and row i + rotary_width / 2 come to stand side by side; rows from rotary_width on stay.
    """
    heads = rows.view(-1, head_dim, *rows.shape[1:])
    half = rotary_width // 2
    turned = torch.stack([heads[:, :half], heads[:, half:rotary_width]], dim=2).flatten(1, 2)
    return torch.cat([turned, heads[:, rotary_width:]], dim=1).flatten(0, 1)


def gguf_tensors(config: ModelConfig) -> Iterator[GgufTensor]:
    """Every tensor of the file, in its order."""
    hidden, mlp = config.hidden_size, config.mlp_size
    vocabulary = (config.vocab_size, hidden)
    yield GgufTensor("token_embd.weight", "embedding.weight", 0, config.vocab_size, vocabulary)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"blk.{layer}"
        yield _vector(f"{theirs}.attn_norm.weight", f"{ours}.mixer_norm.weight", hidden)
        if layer in config.attention_indices:
            yield from _attention(config, f"{ours}.mixer", theirs)
        else:
            yield from _mamba(config, f"{ours}.mixer", theirs)
        yield _vector(f"{theirs}.ffn_norm.weight", f"{ours}.mlp_norm.weight", hidden)
        yield GgufTensor(f"{theirs}.ffn_gate.weight", f"{ours}.mlp.gate_up.weight", 0, mlp, (mlp, hidden))
        yield GgufTensor(f"{theirs}.ffn_up.weight", f"{ours}.mlp.gate_up.weight", mlp, 2 * mlp, (mlp, hidden))
        yield GgufTensor(f"{theirs}.ffn_down.weight", f"{ours}.mlp.down.weight", 0, hidden, (hidden, mlp))
    yield _vector("output_norm.weight", "head.norm.weight", hidden)
    yield GgufTensor("output.weight", "head.weight", 0, config.vocab_size, vocabulary)


def _attention(config: ModelConfig, ours: str, theirs: str) -> Iterator[GgufTensor]:
    hidden = config.hidden_size

    def change(rows: Tensor) -> Tensor:
        return neighbours(rows, config.head_dim, config.rotary_width)

    at = 0
    for name, heads in (("q", config.attention_heads), ("k", config.kv_heads), ("v", config.kv_heads)):
        rows = heads * config.head_dim
        yield GgufTensor(
            f"{theirs}.attn_{name}.weight",
            f"{ours}.qkv.weight",
            at,
            at + rows,
            (rows, hidden),
            change=None if name == "v" else change,
        )
        at += rows
    yield GgufTensor(f"{theirs}.attn_output.weight", f"{ours}.out.weight", 0, hidden, (hidden, hidden))


def _mamba(config: ModelConfig, ours: str, theirs: str) -> Iterator[GgufTensor]:
    """Their order in `ssm_in` is ours: z, x, B, C, dt."""
    hidden, inner, channels, heads = config.hidden_size, config.inner_size, config.conv_channels, config.mamba_heads
    wide = inner + channels + heads
    yield GgufTensor(f"{theirs}.ssm_in.weight", f"{ours}.in_proj.weight", 0, wide, (wide, hidden))
    conv = (channels, CONV_WIDTH)
    yield GgufTensor(f"{theirs}.ssm_conv1d.weight", f"{ours}.conv_weight", 0, channels, conv, matrix=False)
    yield _vector(f"{theirs}.ssm_conv1d.bias", f"{ours}.conv_bias", channels)
    yield _vector(f"{theirs}.ssm_dt.bias", f"{ours}.dt_bias", heads)
    # these two are columns there, and have no `.weight`
    yield GgufTensor(f"{theirs}.ssm_a", f"{ours}.A_log", 0, heads, (heads, 1), False, lambda rows: -rows.exp())
    yield GgufTensor(f"{theirs}.ssm_d", f"{ours}.D", 0, heads, (heads, 1), matrix=False)
    by_group = (config.mamba_groups, inner // config.mamba_groups)
    yield GgufTensor(f"{theirs}.ssm_norm.weight", f"{ours}.norm_weight", 0, inner, by_group, matrix=False)
    yield GgufTensor(f"{theirs}.ssm_out.weight", f"{ours}.out_proj.weight", 0, hidden, (hidden, inner))


def _vector(name: str, ours: str, length: int) -> GgufTensor:
    return GgufTensor(name, ours, 0, length, (length,), matrix=False)
