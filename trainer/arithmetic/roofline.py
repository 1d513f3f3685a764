"""The least time of prefill and of a step of decoding: each part takes as long as its FLOP or its bytes, if more.

The roofline model (Williams, Waterman, Patterson 2009), part by part and summed, since parts wait for each other. Not
counted: activations, launches, sampling, communication. So no engine is faster, and every engine is slower.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .gpus import Gpu
from .model_parts import ModelCost

#: What engines take of a GPU's memory, and what of that goes to activations and graphs.
MEMORY_SHARE = 0.92
WORKSPACE_BYTES = 2e9


@dataclass(frozen=True, slots=True)
class Work:
    """Of a part in one pass: seconds by its FLOP and by its bytes."""

    name: str
    flops: float
    moved_bytes: float
    flop_seconds: float
    byte_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.flop_seconds, self.byte_seconds)


def prefill(cost: ModelCost, gpu: Gpu, batch: int, prompt_tokens: int) -> list[Work]:
    """The parts of reading `batch` prompts of `prompt_tokens` at once.

    Weights are read once; each token looks back on half of its prompt in the mean, since attention is causal; only the
    last token of a prompt has logits; keys, values and the last state are written.
    """
    tokens = batch * prompt_tokens
    attention = tokens * cost.attention_flops(prompt_tokens / 2)
    written = tokens * cost.kv_bytes_per_token
    return list(_works(cost, gpu, tokens, batch, attention, written, batch * cost.state_bytes))


def decode(cost: ModelCost, gpu: Gpu, batch: int, context_tokens: float) -> list[Work]:
    """The parts of one step, a token for each of `batch` sequences of `context_tokens`.

    Weights are read once; keys and values of the whole context are read; the state is read and written.
    """
    attention = batch * cost.attention_flops(context_tokens)
    read = batch * context_tokens * cost.kv_bytes_per_token
    return list(_works(cost, gpu, batch, batch, attention, read, 2 * batch * cost.state_bytes))


def _works(
    cost: ModelCost,
    gpu: Gpu,
    tokens: int,
    logits: int,
    attention_flops: float,
    kv_bytes: float,
    state_bytes: float,
) -> Iterator[Work]:
    for part in cost.parts:
        flops, moved = float(part.flops_per_token * tokens), float(part.weight_bytes)
        if part.name == "embedding":
            moved = 0.0  # a row a token, which no sum here would show
        elif part.name == "head":
            flops = float(part.flops_per_token * logits)
        elif part.name == "convolution, scan, gated norm":
            moved += state_bytes
        yield _work(part.name, flops, moved, gpu, fp8=part.fp8)
    yield _work("attention over the context", attention_flops, kv_bytes, gpu, fp8=False)


def _work(name: str, flops: float, moved: float, gpu: Gpu, *, fp8: bool) -> Work:
    return Work(name, flops, moved, flops / gpu.flops(fp8=fp8), moved / gpu.bytes_per_second)


def seconds(works: list[Work]) -> float:
    """Of the whole pass."""
    return sum(work.seconds for work in works)


def max_batch(cost: ModelCost, gpu: Gpu, tokens: int) -> int:
    """How many sequences of `tokens` the GPU holds beside the weights; 0 where the weights alone are too large."""
    room = gpu.memory_bytes * MEMORY_SHARE - WORKSPACE_BYTES - cost.weight_bytes
    return max(0, int(room // (cost.kv_bytes_per_token * tokens + cost.state_bytes)))
