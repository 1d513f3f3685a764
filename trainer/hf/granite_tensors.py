"""The tensors of a model of ours as a dense `GraniteMoeHybridForCausalLM` has them: names, pieces, order of rows.

Gate and up are joined there as in ours, gate first. Their rotary embedding turns whole heads, feature i with
i + head_dim / 2, while ours turns the first `rotary_width` features: the rows of queries and keys are put into such an
order that each turned pair stands where theirs turns one, and granite_config.py gives the pairs that ours leaves alone
a frequency of zero. A product of a query and a key does not depend on the order of features, so nothing else changes.

Except where the rotary embedding has an attention factor: theirs multiplies the features that stand still by it, too,
which ours leaves alone. There the queries' rows of these features are divided by its square, which rounds once.
"""

from collections.abc import Iterator

from ..model.config import ModelConfig
from .bamba_tensors import mixer_tensors
from .tensor_mapping import TensorMapping


def tensor_mappings(config: ModelConfig) -> Iterator[TensorMapping]:
    """Every tensor of a dense `GraniteMoeHybridForCausalLM`, and where it lies in ours."""
    hidden = config.hidden_size
    order, query_scale = rotary_order(config), _query_scale(config)
    yield TensorMapping("embedding.weight", "model.embed_tokens.weight", 0, config.vocab_size)
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield TensorMapping(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight", 0, hidden)
        yield TensorMapping(f"{ours}.mlp_norm.weight", f"{theirs}.post_attention_layernorm.weight", 0, hidden)
        joined, down = f"{theirs}.shared_mlp.input_linear.weight", f"{theirs}.shared_mlp.output_linear.weight"
        yield TensorMapping(f"{ours}.mlp.gate_up.weight", joined, 0, 2 * config.mlp_size, linear=True)
        yield TensorMapping(f"{ours}.mlp.down.weight", down, 0, hidden, linear=True)
        yield from mixer_tensors(config, layer, order, query_scale)
    yield TensorMapping("head.norm.weight", "model.norm.weight", 0, hidden)
    yield TensorMapping("head.weight", "lm_head.weight", 0, config.vocab_size)


def rotary_order(config: ModelConfig) -> tuple[int, ...] | None:
    """Which feature of a head of ours is feature j of theirs, for each j; None where whole heads are rotated.

    The first half holds the firsts of our pairs, then the first half of the features that are not rotated; the second
    half the seconds, then the rest.
    """
    pairs, rotated, head = config.rotary_width // 2, config.rotary_width, config.head_dim
    if rotated == head:
        return None
    middle = rotated + (head - rotated) // 2
    return (*range(pairs), *range(rotated, middle), *range(pairs, rotated), *range(middle, head))


def _query_scale(config: ModelConfig) -> tuple[float, ...] | None:
    """By what each row of a head of queries is multiplied, in their order; None where nothing is."""
    factor = config.rotary_scale.cos_and_sin_by if config.rotary_scale else 1.0
    pairs, head = config.rotary_width // 2, config.head_dim
    if factor == 1 or config.rotary_width == head:
        return None
    half = (1.0,) * pairs + (factor**-2,) * (head // 2 - pairs)
    return half + half
