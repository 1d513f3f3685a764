"""How many GPUs train a model on rows of a length, by what each must hold: the least that share one row, for each way
of keeping activations.

The bytes are those of observe/memory_estimate.py, with 8 % more for what it does not count; the GPUs that share
a row hold the model together, and a step is one row. So it is about what fits, not about what is fast.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..config import Compute
from ..model.config import ModelConfig
from ..observe.memory_estimate import GIB, MemoryNeed, need_of
from .gpus import Gpu

#: torch held 1.01 to 1.04 times what is counted at the peak of the short rows that were measured, 1.05 to 1.07 of long.
OVER_COUNTED = 1.08
MOST_GPUS = 4096
#: What the arithmetic was checked against.
MEASURED = (
    "Checked against eight peaks of Bamba-9B at rows of 4,096 tokens on one and two H200, 84 to 119 GiB (counted: 96 "
    "to 99.6 % of each), and three of rows of 32,768 and 131,072 on two (94 to 95 %). Offload is arithmetic alone."
)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of keeping activations, in the fields of a recipe's `compute` and `optimizer`."""

    name: str
    compute: dict[str, Any]
    memory: Literal["full", "low"] = "full"


FULL: dict[str, Any] = {"recompute": "full"}
WAYS = (
    Way("recompute: none", {}),
    Way("recompute: full", FULL),
    Way("recompute: full, residual: compute", {**FULL, "residual": "compute"}),
    Way("recompute: full, offload_residuals", {**FULL, "offload_residuals": True}),
    Way("the same, optimizer.memory: low", {**FULL, "offload_residuals": True}, "low"),
)


@dataclass(frozen=True, slots=True)
class LongRow:
    """`gpus` that share one row (None: not even `MOST_GPUS`), and what each holds of it. `host` bytes lie in the memory
    of the machine, for each GPU."""

    way: str
    gpus: int | None
    need: MemoryNeed | None


def long_rows(model: ModelConfig, gpu: Gpu, row_tokens: int) -> list[LongRow]:
    """For each way the least GPUs that hold one row of `row_tokens` together: a number that divides it."""
    return [_least(model, gpu, row_tokens, way) for way in WAYS]


def _least(model: ModelConfig, gpu: Gpu, row_tokens: int, way: Way) -> LongRow:
    for ranks in range(1, MOST_GPUS + 1):
        if row_tokens % ranks:
            continue
        compute = Compute(micro_rows=1, context_ranks=ranks, **way.compute)
        need = need_of(model, compute, way.memory, row_tokens, ranks, several=False)
        if need.total * OVER_COUNTED <= gpu.memory_bytes:
            return LongRow(way.name, ranks, need)
    return LongRow(way.name, None, None)


def as_values(name: str, gpu: Gpu, row_tokens: int, rows: list[LongRow]) -> dict[str, Any]:
    """The answer as plain values, for JSON."""
    return {
        "model": name,
        "gpu": asdict(gpu),
        "row_tokens": row_tokens,
        "over_counted": OVER_COUNTED,
        "measured": MEASURED,
        "ways": [
            {"way": row.way, "gpus": row.gpus, "bytes_each": None if row.need is None else asdict(row.need)}
            for row in rows
        ],
    }


def table(name: str, gpu: Gpu, row_tokens: int, rows: list[LongRow]) -> list[str]:
    """The same for people, as lines of Markdown."""
    lines = [
        f"{name}: GPUs ({gpu.name}) that train on one row of {row_tokens:,} tokens together (compute.context_ranks)",
        "",
        "| way | GPUs | GiB each: weights, moments | activations | logits | host |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row.need is None:
            lines.append(f"| {row.way} | above {MOST_GPUS:,} | | | | |")
            continue
        parts = (row.need.learner, row.need.activations, row.need.logits, row.need.host)
        numbers = " | ".join(f"{part / GIB:,.1f}" for part in parts)
        lines.append(f"| {row.way} | {row.gpus} | {numbers} |")
    return [*lines, "", MEASURED]
