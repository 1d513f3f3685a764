"""The tensors of a model whose layers are one of Mamba2, attention or MLP, as `NemotronHForCausalLM` and
`Mamba2ForCausalLM` have them: names and pieces. Whatever a layer is, both call it `mixer`.

Only q|k|v are one matrix of ours and three of theirs, and their convolution has one dimension more; nothing else
differs, so both directions keep every bit.
"""

from collections.abc import Iterator

from ..model.config import ModelConfig
from .bamba_tensors import attention_tensors, mamba_tensors
from .tensor_mapping import TensorMapping

EMBEDDING, HEAD = "backbone.embeddings.weight", "lm_head.weight"


def tensor_mappings(config: ModelConfig, *, tied: bool = False) -> Iterator[TensorMapping]:
    """Every tensor of theirs, and where it lies in ours. `tied`: their head is the embedding, of which ours gets a
    copy."""
    hidden, mlp = config.hidden_size, config.mlp_size
    yield TensorMapping("embedding.weight", EMBEDDING, 0, config.vocab_size)
    for layer, (mixer, has_mlp) in enumerate(config.layer_parts):
        ours, theirs = f"blocks.{layer}", f"backbone.layers.{layer}"
        norm = "mlp_norm" if has_mlp else "mixer_norm"
        yield TensorMapping(f"{ours}.{norm}.weight", f"{theirs}.norm.weight", 0, hidden)
        if mixer == "mamba":
            yield from mamba_tensors(config, f"{ours}.mixer", f"{theirs}.mixer")
        elif mixer == "attention":
            yield from attention_tensors(config, f"{ours}.mixer", f"{theirs}.mixer")
        else:
            yield TensorMapping(f"{ours}.mlp.up.weight", f"{theirs}.mixer.up_proj.weight", 0, mlp, linear=True)
            yield TensorMapping(f"{ours}.mlp.down.weight", f"{theirs}.mixer.down_proj.weight", 0, hidden, linear=True)
    yield TensorMapping("head.norm.weight", "backbone.norm_f.weight", 0, hidden)
    yield TensorMapping("head.weight", EMBEDDING if tied else HEAD, 0, config.vocab_size)
