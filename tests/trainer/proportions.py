"""A model of the 9B's proportions that is small enough for a CPU, and so sharp that a wrong rotation shows."""

import torch

from trainer.model.bamba import Bamba
from trainer.model.config import ModelConfig
from trainer.model.init_weights import init_weights

#: Heads of 64 features of which half are rotated, four query heads to one of keys, a state of 128, an MLP of 3.5.
CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=256,
    mlp_size=896,
    layers=4,
    attention_layers=[1, 3],
    attention_heads=4,
    kv_heads=1,
    mamba_heads=8,
    mamba_head_dim=64,
    mamba_state=128,
)


def sharp_model(config: ModelConfig = CONFIG, seed: int = 7) -> Bamba:
    """Queries and keys so large that attention picks few positions: with another rotation it picks others. Larger ones
    would make float32's own rounding show."""
    made = Bamba(config, chunk_tokens=48)
    init_weights(made, config, seed)
    rotated = (config.attention_heads + config.kv_heads) * config.head_dim
    with torch.no_grad():
        for layer in config.attention_indices:
            made.get_submodule(f"blocks.{layer}.mixer").get_parameter("qkv.weight")[:rotated].mul_(3)
    return made
