"""The tensors of a model of ours as `BambaForCausalLM` has them: names and pieces.

Two matrices of ours are several of theirs (gate|up, q|k|v), and their convolution has one dimension more; nothing
else differs, so both directions keep every bit. config.json is bamba_config.py's.
"""

from collections.abc import Iterator

from ..model.config import ModelConfig
from .tensor_mapping import TensorMapping


def tensor_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """Every tensor of a `BambaForCausalLM`, and where it lies in ours."""
    hidden, mlp = config.hidden_size, config.mlp_size
    yield TensorMapping("embedding.weight", "model.embed_tokens.weight", 0, config.vocab_size)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield TensorMapping(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight", 0, hidden)
        yield TensorMapping(f"{ours}.mlp_norm.weight", f"{theirs}.pre_ff_layernorm.weight", 0, hidden)
        feed = f"{theirs}.feed_forward"
        yield TensorMapping(f"{ours}.mlp.gate_up.weight", f"{feed}.gate_proj.weight", 0, mlp, linear=True)
        yield TensorMapping(f"{ours}.mlp.gate_up.weight", f"{feed}.up_proj.weight", mlp, 2 * mlp, linear=True)
        yield TensorMapping(f"{ours}.mlp.down.weight", f"{feed}.down_proj.weight", 0, hidden, linear=True)
        yield from mixer_tensors(config, layer)
    yield TensorMapping("head.norm.weight", "model.final_layernorm.weight", 0, hidden)
    yield TensorMapping("head.weight", "lm_head.weight", 0, config.vocab_size)


def mixer_tensors(
    config: ModelConfig,
    layer: int,
    rotary_order: tuple[int, ...] | None = None,
    query_scale: tuple[float, ...] | None = None,
) -> Iterator[TensorMapping]:
    """Of the attention or the Mamba2 block of a layer. `rotary_order`: as `head_order`, of queries and keys;
    `query_scale`: as `head_scale`, of queries."""
    ours = f"blocks.{layer}.mixer"
    if layer in config.attention_indices:
        return attention_tensors(config, ours, f"model.layers.{layer}.self_attn", rotary_order, query_scale)
    return mamba_tensors(config, ours, f"model.layers.{layer}.mamba")


def attention_tensors(
    config: ModelConfig,
    ours: str,
    theirs: str,
    rotary_order: tuple[int, ...] | None = None,
    query_scale: tuple[float, ...] | None = None,
) -> Iterator[TensorMapping]:
    """Of one attention block, `ours` and `theirs` by the beginnings of the names; the rest as in `mixer_tensors`."""
    start = 0
    for name, heads in (("q", config.attention_heads), ("k", config.kv_heads), ("v", config.kv_heads)):
        end = start + heads * config.head_dim
        piece = TensorMapping(f"{ours}.qkv.weight", f"{theirs}.{name}_proj.weight", start, end, linear=True)
        order = None if name == "v" else rotary_order
        yield piece._replace(head_order=order, head_scale=query_scale if name == "q" else None)
        start = end
    yield TensorMapping(f"{ours}.out.weight", f"{theirs}.o_proj.weight", 0, config.hidden_size, linear=True)


def mamba_tensors(config: ModelConfig, ours: str, theirs: str) -> Iterator[TensorMapping]:
    """Of one Mamba2 block, `ours` and `theirs` by the beginnings of the names."""
    wide = config.inner_size + config.conv_channels + config.mamba_heads
    yield TensorMapping(f"{ours}.in_proj.weight", f"{theirs}.in_proj.weight", 0, wide, linear=True)
    yield TensorMapping(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", 0, config.conv_channels, middle=True)
    yield TensorMapping(f"{ours}.conv_bias", f"{theirs}.conv1d.bias", 0, config.conv_channels)
    for name in ("dt_bias", "A_log", "D"):
        yield TensorMapping(f"{ours}.{name}", f"{theirs}.{name}", 0, config.mamba_heads)
    yield TensorMapping(f"{ours}.norm_weight", f"{theirs}.norm.weight", 0, config.inner_size)
    yield TensorMapping(f"{ours}.out_proj.weight", f"{theirs}.out_proj.weight", 0, config.hidden_size, linear=True)
