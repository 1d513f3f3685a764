"""How the tensors of a model of ours are laid out in a Hugging Face folder for `BambaForCausalLM`: names and pieces.

Two matrices of ours are several of theirs (gate|up, q|k|v), and their convolution has one dimension more; nothing
else differs, so both directions keep every bit. config.json is config.py's.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from ..model.config import ModelConfig


class TensorMapping(NamedTuple):
    """`theirs` is rows [start, end) of `ours`; `middle` says that theirs has a dimension of 1 more in the middle."""

    ours: str
    theirs: str
    start: int
    end: int
    middle: bool = False

    def out_of(self, ours: Tensor) -> Tensor:
        return self.in_their_shape(ours[self.start : self.end])

    def in_their_shape(self, part: Tensor) -> Tensor:
        """Rows [start, end) of ours, as theirs has them."""
        return part.unsqueeze(1) if self.middle else part

    def into(self, ours: Tensor, theirs: Tensor) -> None:
        ours[self.start : self.end].copy_(theirs.squeeze(1) if self.middle else theirs)


def tensor_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """Every tensor of a `BambaForCausalLM`, and where it lies in ours."""
    hidden, head = config.hidden_size, config.head_dim
    yield TensorMapping("embedding.weight", "model.embed_tokens.weight", 0, config.vocab_size)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield TensorMapping(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight", 0, hidden)
        yield TensorMapping(f"{ours}.mlp_norm.weight", f"{theirs}.pre_ff_layernorm.weight", 0, hidden)
        mlp = config.mlp_size
        yield TensorMapping(f"{ours}.mlp.gate_up.weight", f"{theirs}.feed_forward.gate_proj.weight", 0, mlp)
        yield TensorMapping(f"{ours}.mlp.gate_up.weight", f"{theirs}.feed_forward.up_proj.weight", mlp, 2 * mlp)
        yield TensorMapping(f"{ours}.mlp.down.weight", f"{theirs}.feed_forward.down_proj.weight", 0, hidden)
        if layer in config.attention_indices:
            at = 0
            for name, heads in (("q", config.attention_heads), ("k", config.kv_heads), ("v", config.kv_heads)):
                end = at + heads * head
                yield TensorMapping(f"{ours}.mixer.qkv.weight", f"{theirs}.self_attn.{name}_proj.weight", at, end)
                at = end
            yield TensorMapping(f"{ours}.mixer.out.weight", f"{theirs}.self_attn.o_proj.weight", 0, hidden)
        else:
            yield from _mamba(config, f"{ours}.mixer", f"{theirs}.mamba")
    yield TensorMapping("head.norm.weight", "model.final_layernorm.weight", 0, hidden)
    yield TensorMapping("head.weight", "lm_head.weight", 0, config.vocab_size)


def _mamba(config: ModelConfig, ours: str, theirs: str) -> Iterator[TensorMapping]:
    wide = config.inner_size + config.conv_channels + config.mamba_heads
    yield TensorMapping(f"{ours}.in_proj.weight", f"{theirs}.in_proj.weight", 0, wide)
    yield TensorMapping(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", 0, config.conv_channels, middle=True)
    yield TensorMapping(f"{ours}.conv_bias", f"{theirs}.conv1d.bias", 0, config.conv_channels)
    for name in ("dt_bias", "A_log", "D"):
        yield TensorMapping(f"{ours}.{name}", f"{theirs}.{name}", 0, config.mamba_heads)
    yield TensorMapping(f"{ours}.norm_weight", f"{theirs}.norm.weight", 0, config.inner_size)
    yield TensorMapping(f"{ours}.out_proj.weight", f"{theirs}.out_proj.weight", 0, config.hidden_size)
