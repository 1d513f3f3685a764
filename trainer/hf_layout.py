"""How a model of ours is laid out in a Hugging Face folder for `BambaForCausalLM`: names, pieces, config.json.

Two matrices of ours are several of theirs (gate|up, q|k|v), and their convolution has one dimension more; nothing
else differs, so both directions keep every bit. Their defaults are not Bamba's (a state of 256, a padding row in the
embedding, all layers Mamba), so config.json leaves none of them out.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from bamba_data.errors import UserError
from trainer.model.config import CONV_WIDTH, ModelConfig


class Piece(NamedTuple):
    """`theirs` is rows [start, end) of `ours`; `middle` says that theirs has a dimension of 1 more in the middle."""

    ours: str
    theirs: str
    start: int
    end: int
    middle: bool = False

    def out_of(self, ours: Tensor) -> Tensor:
        part = ours[self.start : self.end]
        return part.unsqueeze(1) if self.middle else part

    def into(self, ours: Tensor, theirs: Tensor) -> None:
        ours[self.start : self.end].copy_(theirs.squeeze(1) if self.middle else theirs)


def pieces(config: ModelConfig) -> Iterator[Piece]:
    """Every tensor of a `BambaForCausalLM`, and where it lies in ours."""
    hidden, head = config.hidden_size, config.head_dim
    yield Piece("embedding.weight", "model.embed_tokens.weight", 0, config.vocab_size)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield Piece(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight", 0, hidden)
        yield Piece(f"{ours}.mlp_norm.weight", f"{theirs}.pre_ff_layernorm.weight", 0, hidden)
        mlp = config.mlp_size
        yield Piece(f"{ours}.mlp.gate_up.weight", f"{theirs}.feed_forward.gate_proj.weight", 0, mlp)
        yield Piece(f"{ours}.mlp.gate_up.weight", f"{theirs}.feed_forward.up_proj.weight", mlp, 2 * mlp)
        yield Piece(f"{ours}.mlp.down.weight", f"{theirs}.feed_forward.down_proj.weight", 0, hidden)
        if layer in config.attention_indices:
            at = 0
            for name, heads in (("q", config.attention_heads), ("k", config.kv_heads), ("v", config.kv_heads)):
                end = at + heads * head
                yield Piece(f"{ours}.mixer.qkv.weight", f"{theirs}.self_attn.{name}_proj.weight", at, end)
                at = end
            yield Piece(f"{ours}.mixer.out.weight", f"{theirs}.self_attn.o_proj.weight", 0, hidden)
        else:
            yield from _mamba(config, f"{ours}.mixer", f"{theirs}.mamba")
    yield Piece("head.norm.weight", "model.final_layernorm.weight", 0, hidden)
    yield Piece("head.weight", "lm_head.weight", 0, config.vocab_size)


def _mamba(config: ModelConfig, ours: str, theirs: str) -> Iterator[Piece]:
    wide = config.inner_size + config.conv_channels + config.mamba_heads
    yield Piece(f"{ours}.in_proj.weight", f"{theirs}.in_proj.weight", 0, wide)
    yield Piece(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", 0, config.conv_channels, middle=True)
    yield Piece(f"{ours}.conv_bias", f"{theirs}.conv1d.bias", 0, config.conv_channels)
    for name in ("dt_bias", "A_log", "D"):
        yield Piece(f"{ours}.{name}", f"{theirs}.{name}", 0, config.mamba_heads)
    yield Piece(f"{ours}.norm_weight", f"{theirs}.norm.weight", 0, config.inner_size)
    yield Piece(f"{ours}.out_proj.weight", f"{theirs}.out_proj.weight", 0, config.hidden_size)


def config_json(
    config: ModelConfig, row_tokens: int, dtype: str, bos_token_id: int | None, eos_token_id: int | None
) -> dict[str, Any]:
    """What config.json says. `row_tokens` is the longest row of the training."""
    return {
        "architectures": ["BambaForCausalLM"],
        "model_type": "bamba",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.layers,
        "attn_layer_indices": config.attention_indices,
        "num_attention_heads": config.attention_heads,
        "num_key_value_heads": config.kv_heads,
        "mamba_n_heads": config.mamba_heads,
        "mamba_d_head": config.mamba_head_dim,
        "mamba_d_state": config.mamba_state,
        "mamba_n_groups": 1,
        "mamba_d_conv": CONV_WIDTH,
        "mamba_expand": config.inner_size // config.hidden_size,
        "mamba_chunk_size": 256,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": False,
        "max_position_embeddings": row_tokens,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rotary_base,
            "partial_rotary_factor": config.rotary_fraction,
        },
        "z_loss_coefficient": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,  # their default, 0, would freeze the first row of the embedding
        "use_cache": True,
        "dtype": dtype,
    }


def config_of(theirs: dict[str, Any], where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` for a model that is no Bamba of ours (groups, biases, ties)."""
    fixed = {
        "model_type": "bamba",
        "mamba_n_groups": 1,
        "mamba_d_conv": CONV_WIDTH,
        "mamba_proj_bias": False,
        "mamba_conv_bias": True,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    for field, wanted in fixed.items():
        found = theirs.get(field, wanted)
        if found != wanted:
            raise UserError(f"{where}: {field} is {found!r}, this model has {wanted!r}")
    heads = theirs["mamba_n_heads"]
    inner = theirs["mamba_expand"] * theirs["hidden_size"]
    head_dim = theirs.get("mamba_d_head", "auto")
    rope = theirs.get("rope_parameters") or {}
    return ModelConfig(
        vocab_size=theirs["vocab_size"],
        hidden_size=theirs["hidden_size"],
        mlp_size=theirs["intermediate_size"],
        layers=theirs["num_hidden_layers"],
        attention_layers=list(theirs.get("attn_layer_indices") or []),
        attention_heads=theirs["num_attention_heads"],
        kv_heads=theirs["num_key_value_heads"],
        rotary_fraction=float(rope.get("partial_rotary_factor", 0.5)),
        rotary_base=float(rope.get("rope_theta", 10_000.0)),
        mamba_heads=heads,
        mamba_head_dim=inner // heads if head_dim == "auto" else head_dim,
        mamba_state=theirs.get("mamba_d_state", 256),
        norm_eps=theirs["rms_norm_eps"],
    )
