"""The answer of `bamba-data model arithmetic`: one record of plain values, as JSON or as tables for people."""

from dataclasses import asdict, dataclass
from typing import Any

from .gpus import Gpu
from .model_parts import ModelCost
from .plot import MARKED_RATIOS
from .roofline import decode, max_batch, prefill, seconds
from .throughput import context_of_ratio, generation, ratio_limit, speed_ratio

K = 1024
OUT_TOKENS = (2 * K, 8 * K, 16 * K, 32 * K, 64 * K)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: two models by name, a GPU, batches and contexts in tokens, and the prompt of the throughput."""

    name: str
    ours: ModelCost
    beside: str
    theirs: ModelCost
    gpu: Gpu
    batches: list[int]
    contexts: list[int]
    in_tokens: int = K


def answer(asked: Question) -> dict[str, Any]:
    """All tables as plain values. Bytes, FLOP, seconds and tokens are in the names."""
    return {
        "gpu": asdict(asked.gpu),
        "weights": asked.ours.weights,
        "models": {asked.name: _model(asked.ours), asked.beside: _model(asked.theirs)},
        "roofline": [_at(asked, context, batch) for context in asked.contexts for batch in asked.batches],
        "throughput": [_generated(asked, out) for out in OUT_TOKENS],
        "crossings": [
            {
                "batch": batch,
                **{
                    f"context_tokens_of_{ratio:g}x": context_of_ratio(asked.ours, asked.theirs, batch, ratio)
                    for ratio in MARKED_RATIOS
                },
            }
            for batch in asked.batches
        ],
        "ratio_limit": ratio_limit(asked.ours, asked.theirs) if asked.ours.kv_bytes_per_token else None,
    }


def _model(cost: ModelCost) -> dict[str, Any]:
    flops = sum(part.flops_per_token for part in cost.parts)
    return {
        "parts": [asdict(part) for part in cost.parts],
        "parameters": cost.parameters,
        "weight_bytes": cost.weight_bytes,
        "read_bytes_per_step": cost.read_bytes,
        "flops_per_token": flops,
        "flops_per_token_and_context_token": int(cost.attention_flops(1)),
        "kv_elements_per_token": cost.kv_elements_per_token,
        "kv_bytes_per_token": cost.kv_bytes_per_token,
        "scan_state_bytes_per_sequence": cost.scan_state_bytes,
        "conv_state_bytes_per_sequence": cost.conv_state_bytes,
    }


def _at(asked: Question, context: int, batch: int) -> dict[str, Any]:
    row: dict[str, Any] = {"context_tokens": context, "batch": batch}
    for name, cost in ((asked.name, asked.ours), (asked.beside, asked.theirs)):
        first, step = prefill(cost, asked.gpu, batch, context), decode(cost, asked.gpu, batch, context)
        slowest = max(step, key=lambda work: work.seconds)
        row[name] = {
            "fits": max_batch(cost, asked.gpu, context) >= batch,
            "prefill_seconds": seconds(first),
            "decode_tokens_per_second": batch / seconds(step),
            "slowest_part_of_decode": slowest.name,
            "slowest_part_waits_for": "products" if slowest.flop_seconds > slowest.byte_seconds else "memory",
        }
    row["ratio_of_decode_by_bytes"] = speed_ratio(asked.ours, asked.theirs, batch, context)
    return row


def _generated(asked: Question, out_tokens: int) -> dict[str, Any]:
    row: dict[str, Any] = {"in_tokens": asked.in_tokens, "out_tokens": out_tokens}
    made = {
        name: generation(cost, asked.gpu, asked.in_tokens, out_tokens)
        for name, cost in ((asked.name, asked.ours), (asked.beside, asked.theirs))
    }
    row |= {name: asdict(one) for name, one in made.items()}
    ours, theirs = made[asked.name].tokens_per_second, made[asked.beside].tokens_per_second
    row["ratio"] = ours / theirs if theirs else None
    return row


def tables(asked: Question) -> list[str]:
    """The same for people, as Markdown tables, which a terminal and a page both show."""
    said = answer(asked)
    ours = said["models"][asked.name]
    head = f"{asked.name} beside {asked.beside}, weights {asked.ours.weights}, on one {asked.gpu.name}."
    part_head = [f"part of {asked.name}", "parameters", "GB", "GFLOP a token"]
    beside = [f"prefill, s: {asked.beside}", "decode, tok/s"]
    crossings = [
        [str(row["batch"]), *(_context(row[f"context_tokens_of_{ratio:g}x"]) for ratio in MARKED_RATIOS)]
        for row in said["crossings"]
    ]
    lines = [f"{head} Speeds are upper bounds.", ""]
    lines += _table(part_head, [_part_cells(part) for part in [*ours["parts"], _total(ours)]])
    lines += _table(["", asked.name, asked.beside], _model_rows(asked, said))
    lines += _table(
        ["context", "batch", "prefill, s", "decode, tok/s", *beside, "ratio by bytes"],
        [_roofline_cells(asked, row) for row in said["roofline"]],
    )
    lines += _table(
        ["in", "out", "room", "tok/s", f"room: {asked.beside}", "tok/s", "ratio"],
        [_throughput_cells(asked, row) for row in said["throughput"]],
    )
    lines += _table(["batch", *(f"{ratio:g}× from context" for ratio in MARKED_RATIOS)], crossings)
    if said["ratio_limit"]:
        lines.append(f"However long the context, the ratio stays below {said['ratio_limit']:.2f}.")
    return lines


def _model_rows(asked: Question, said: dict[str, Any]) -> list[list[str]]:
    """What the two models are, side by side: (in the record, unit, its size, for people)."""
    rows = [
        ("parameters", "B", 1e9, "parameters"),
        ("weight_bytes", "GB", 1e9, "weights"),
        ("read_bytes_per_step", "GB", 1e9, "read by a step of decoding"),
        ("kv_bytes_per_token", "kB", 1e3, "keys and values a token"),
        ("scan_state_bytes_per_sequence", "MB", 1e6, "scan state a sequence"),
        ("conv_state_bytes_per_sequence", "MB", 1e6, "convolution state a sequence"),
    ]
    models = [said["models"][name] for name in (asked.name, asked.beside)]
    return [[words, *(f"{model[key] / size:.3f} {unit}" for model in models)] for key, unit, size, words in rows]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """With an empty line after it."""
    return [*(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)), ""]


def _total(model: dict[str, Any]) -> dict[str, Any]:
    return {"name": "all", **{key: model[key] for key in ("parameters", "weight_bytes", "flops_per_token")}}


def _part_cells(part: dict[str, Any]) -> list[str]:
    flops = part["flops_per_token"] / 1e9
    return [part["name"], f"{part['parameters']:,}", f"{part['weight_bytes'] / 1e9:.3f}", f"{flops:.3f}"]


def _roofline_cells(asked: Question, row: dict[str, Any]) -> list[str]:
    cells = [f"{row['context_tokens']:,}", str(row["batch"])]
    for name in (asked.name, asked.beside):
        at = row[name]
        speeds = [f"{at['prefill_seconds']:.3f}", f"{at['decode_tokens_per_second']:,.0f}"]
        cells += speeds if at["fits"] else ["no room", "no room"]
    return [*cells, f"{row['ratio_of_decode_by_bytes']:.2f}"]


def _throughput_cells(asked: Question, row: dict[str, Any]) -> list[str]:
    cells = [f"{row['in_tokens']:,}", f"{row['out_tokens']:,}"]
    for name in (asked.name, asked.beside):
        cells += [f"{row[name]['room']:,}", f"{row[name]['tokens_per_second']:,.0f}"]
    return [*cells, f"{row['ratio']:.2f}" if row["ratio"] else "no room"]


def _context(tokens: float | None) -> str:
    if tokens is None:
        return "never"
    return "any" if tokens == 0 else f"{tokens:,.0f}"
