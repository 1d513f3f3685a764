"""A dense Granite 4 hybrid of IBM's, taken in as the same function: what it multiplies by is folded into weights.

Their model is ours with numbers between the layers, which no weight of ours needs to hold apart:

    embedding_multiplier     times the embedding
    residual_multiplier      times the linears that write to the residual stream
    attention_multiplier     times the queries' rows, over head_dim^-0.5
    logits_scaling           divides the head
    tie_word_embeddings      the head is a copy of the embedding, and learns by itself from here on
    no positions             frequencies of zero: the divisors `STILL`

Each folded weight is rounded once in float32. An export is one of ours, without multipliers.
"""

from collections.abc import Iterator
from typing import Any

from bamba_data.errors import UserError

from ..model.config import ModelConfig
from . import granite_config, granite_tensors
from .tensor_mapping import TensorMapping

#: What ours has of each field that may be folded, and what theirs takes where it is not stated.
OURS: dict[str, Any] = {
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "tie_word_embeddings": False,
}
#: Linears whose outputs are added to the residual stream.
TO_THE_STREAM = ("mixer.out.weight", "mixer.out_proj.weight", "mlp.down.weight")


def config_of(theirs: Any, where: str) -> ModelConfig:
    """Our shape of their config.json; `UserError` names a field that this model cannot be, or does not know."""
    if not isinstance(theirs, dict):
        return granite_config.config_of(theirs, where)
    factors(theirs, where)
    plain = theirs | OURS
    heads, hidden = theirs.get("num_attention_heads"), theirs.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0 and "attention_multiplier" in theirs:
        plain["attention_multiplier"] = (hidden // heads) ** -0.5
    if theirs.get("position_embedding_type", "") != "nope":
        return granite_config.config_of(plain, where)
    # positions count for nothing, so neither does what is stated of their frequencies
    rest = {name: value for name, value in plain.items() if name not in granite_config.ROTARY}
    config = granite_config.config_of(rest | {"position_embedding_type": "rope"}, where)
    still = [granite_config.STILL] * (config.head_dim // 2)
    return ModelConfig.model_validate({**config.model_dump(), "rotary_fraction": 1.0, "rotary_factors": still})


def factors(theirs: dict[str, Any], where: str) -> dict[str, float]:
    """The four multipliers, by what they are of; `UserError` where one is no number above 0."""
    found = {}
    for field in ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"):
        value = theirs.get(field, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{where}: {field} is {value!r}, no number above 0")
        found[field] = float(value)
    return found


def tensor_mappings(theirs: dict[str, Any], config: ModelConfig) -> Iterator[TensorMapping]:
    """Every tensor of theirs, and where it lies in ours, with what multiplies it."""
    by = factors(theirs, "config.json")
    # a mapping tells how theirs comes of ours, so it holds one over what is folded
    attention = config.head_dim**-0.5 / by["attention_multiplier"]
    for piece in granite_tensors.tensor_mappings(config):
        scale, name = 1.0, piece.theirs
        if piece.ours == "embedding.weight":
            scale = 1 / by["embedding_multiplier"]
        elif piece.ours == "head.weight":
            scale = by["logits_scaling"]
            name = "model.embed_tokens.weight" if theirs.get("tie_word_embeddings") else name
        elif piece.ours.endswith(TO_THE_STREAM):
            scale = 1 / by["residual_multiplier"]
        elif piece.theirs.endswith("q_proj.weight"):
            scale = attention
        of_head = piece.head_scale or (1.0,)
        scales = None if scale == 1 and piece.head_scale is None else tuple(one * scale for one in of_head)
        yield piece._replace(theirs=name, head_scale=scales)
