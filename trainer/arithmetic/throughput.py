"""Tokens a second that memory allows, of one model and beside another, and the context where a ratio is reached.

Only bytes count here: at the batches that memory holds, decoding waits for memory and not for products.
"""

from dataclasses import dataclass

from .gpus import Gpu
from .model_parts import ModelCost
from .roofline import max_batch

#: Sequences that an engine takes at once, however many there is room for.
BATCH_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Throughput:
    """`room`: how many sequences memory holds; `batch`: how many of them are generated at once."""

    room: int
    batch: int
    tokens_per_second: float


def step_bytes(cost: ModelCost, batch: int, context_tokens: float) -> float:
    """What a step of decoding moves: weights once, keys and values of each context, each state in and out."""
    each = cost.kv_bytes_per_token * context_tokens + 2 * cost.state_bytes
    return cost.read_bytes + batch * each


def generation(
    cost: ModelCost, gpu: Gpu, in_tokens: int, out_tokens: int, batch_limit: int = BATCH_LIMIT
) -> Throughput:
    """Generated tokens a second when as many sequences as memory holds, at most `batch_limit`, each go from `in_tokens`
    to `out_tokens` more. Room is for a whole sequence; the context in the mean is in + out / 2."""
    room = max_batch(cost, gpu, in_tokens + out_tokens)
    batch = min(room, batch_limit)
    step_seconds = step_bytes(cost, batch, in_tokens + out_tokens / 2) / gpu.bytes_per_second
    return Throughput(room, batch, batch / step_seconds)


def speed_ratio(ours: ModelCost, theirs: ModelCost, batch: int, context_tokens: float) -> float:
    """How many times faster `ours` decodes at the same batch and context, by bytes; memory is taken to be enough."""
    return step_bytes(theirs, batch, context_tokens) / step_bytes(ours, batch, context_tokens)


def context_of_ratio(ours: ModelCost, theirs: ModelCost, batch: int, ratio: float) -> float | None:
    """The context in tokens from which on `ours` is `ratio` times as fast; 0 if always, None if never.

    Both costs are linear in the context, so the ratio is monotone and the crossing has a closed form.
    """
    grows = batch * (theirs.kv_bytes_per_token - ratio * ours.kv_bytes_per_token)
    missing = ratio * step_bytes(ours, batch, 0) - step_bytes(theirs, batch, 0)
    if missing <= 0:
        return 0.0 if grows >= 0 else None
    return missing / grows if grows > 0 else None


def ratio_limit(ours: ModelCost, theirs: ModelCost) -> float:
    """What the ratio comes to as the context grows; infinite for a model without attention."""
    return theirs.kv_bytes_per_token / ours.kv_bytes_per_token if ours.kv_bytes_per_token else float("inf")
