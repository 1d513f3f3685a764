"""What cannot fit a GPU is refused by arithmetic, which counts no more than was measured."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from bamba_data.errors import UserError
from tests.trainer.job import RECIPE
from trainer.arithmetic.gpus import GPUS
from trainer.arithmetic.long_rows import OVER_COUNTED, long_rows, table
from trainer.config import load_recipe
from trainer.distributed.fsdp import World
from trainer.model.bamba import Bamba, is_vector
from trainer.model.config import ModelConfig
from trainer.model.init_weights import init_weights
from trainer.observe.memory_estimate import (
    GIB,
    MemoryNeed,
    check_fits_memory,
    compare,
    compare_host,
    kept_numbers,
    minimum_need,
)
from trainer.observe.memory_snapshot import MemorySnapshot

ALONE = ["optimizer.memory=low", "compute.micro_rows=2"]

FLOAT8 = ["compute.float8=tensorwise"]
COPIES = ["data.batch_rows=4", "compute.shard_ranks=1"]

#: GiB that were held at the peak of steps on H200s (benchmarks/results/trainer_h200_20261122T1645.jsonl, …_20261130).
MEASURED = [
    (["data.batch_rows=4"], 2, 113.7),
    ([*ALONE, *COPIES, "compute.row_exchange=copies"], 2, 102.6),
    ([*ALONE, *COPIES, "compute.row_exchange=collectives"], 2, 93.5),
    ([*ALONE, *COPIES, "compute.row_exchange=copies", *FLOAT8, "compute.float8_casts=kernel"], 2, 103.5),
    ([*ALONE, "data.batch_rows=2", *FLOAT8, "compute.float8_casts=kernel"], 1, 112.6),
    ([*ALONE, "data.batch_rows=2", *FLOAT8], 1, 98.9),
    ([*ALONE, "data.batch_rows=2"], 1, 112),  # one GPU, one and eight micro-batches
    (["optimizer.memory=low", "compute.micro_rows=1", "data.batch_rows=1"], 1, 84),
    (["optimizer.memory=low", "compute.micro_rows=1", "data.batch_rows=8"], 1, 119.3),
]


@pytest.mark.parametrize(("changes", "ranks", "gib"), MEASURED)
def test_no_more_is_counted_than_was_measured_and_most_of_it(changes: list[str], ranks: int, gib: float) -> None:
    counted = minimum_need(load_recipe("bamba-9b-phase1", changes), ranks).total / GIB
    assert 0.95 * gib < counted < gib


SHARED = ["compute.context_ranks=2", "data.row_tokens=131072", "compute.recompute=full", "compute.micro_rows=1"]
LONG = ["data.batch_rows=2", "data.row_tokens=32768"]


@pytest.mark.parametrize(
    ("name", "changes", "gib"),
    [  # benchmarks/results/trainer_h200_20261130.jsonl
        ("bamba-9b-phase1", [*SHARED, "data.batch_rows=1"], 108.4),
        ("bamba-3b", [*LONG, "compute.micro_rows=1"], 115.9),
        ("bamba-3b", [*LONG, "compute.micro_rows=2", "compute.context_ranks=2"], 115.5),
    ],
)
def test_of_long_rows_it_is_less_by_what_is_left_free(name: str, changes: list[str], gib: float) -> None:
    counted = minimum_need(load_recipe(name, changes), 2).total / GIB
    assert counted < gib < OVER_COUNTED * counted


def test_rows_that_no_gpu_can_hold_are_refused_with_the_parts_and_the_ways_out() -> None:
    recipe = load_recipe("bamba-9b-phase1", [*ALONE, "data.row_tokens=1048576", "data.batch_rows=2"])
    with pytest.raises(UserError) as refused:
        compare(recipe, 1, 141 * GIB, "NVIDIA H200")
    said = str(refused.value)
    assert "NVIDIA H200 has 141.0 GiB and each of 1 ranks needs" in said
    assert "the activations of 2 rows of 1,048,576 tokens (data.row_tokens)" in said
    assert "compute.micro_rows below 2, compute.recompute: full" in said
    compare(load_recipe("bamba-9b-phase1", [*ALONE, "compute.micro_rows=1"]), 1, 141 * GIB, "NVIDIA H200")


def test_a_learner_that_is_too_large_by_itself_needs_more_ranks() -> None:
    recipe = load_recipe("bamba-9b-phase1")
    with pytest.raises(UserError, match="Ways out: more ranks, "):
        compare(recipe, 1, 141 * GIB, "NVIDIA H200")
    compare(recipe, 8, 141 * GIB, "NVIDIA H200")


def test_what_is_recomputed_is_not_counted() -> None:
    kept, made_again = (
        minimum_need(load_recipe("bamba-9b-phase1", [f"compute.recompute={way}"]), 8).activations
        for way in ("none", "full")
    )
    assert made_again < kept / 5


#: Widths that differ, so that no part of the formula stands in for another.
SHAPE = ModelConfig(
    **{"vocab_size": 512, "hidden_size": 128, "mlp_size": 352, "layers": 5},
    **{"layer_kinds": ["mamba", "attention", "mlp", "mamba", "mlp"], "attention_heads": 4, "kv_heads": 2},
    **{"mamba_heads": 5, "mamba_head_dim": 64, "mamba_state": 32},
)
PAIRS = SHAPE.model_copy(update={"layer_kinds": None, "attention_layers": [1], "layers": 2, "mamba_heads": 6})


def left_behind(model: Bamba, tokens: int, change: Callable[[Any], Any]) -> list[int]:
    """Bytes that each block really leaves for its backward, every piece of memory once, parameters and what all blocks
    share not; `change` makes of a block's forward what runs."""
    documents, positions = torch.zeros(1, tokens, dtype=torch.int32), torch.arange(tokens)[None]
    rows = model.rows(documents, positions)
    shared = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *rows) if isinstance(one, Tensor)}
    found = []
    for block in model.blocks:
        seen: dict[int, int] = {}

        def pack(saved: Tensor, seen: dict[int, int] = seen) -> Tensor:
            storage = saved.untyped_storage()
            if storage.data_ptr() not in shared:
                seen[storage.data_ptr()] = storage.nbytes()
            return saved

        x = torch.randn(1, tokens, model.config.hidden_size, requires_grad=True)
        torch._dynamo.reset()
        with saved_tensors_hooks(pack, lambda saved: saved):
            out = change(block.forward)(x, rows)
        found.append(sum(seen.values()))
        out.sum().backward()
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own imports
@pytest.mark.parametrize("config", [SHAPE, PAIRS, SHAPE.model_copy(update={"mlp_kind": "relu2"})])
def test_what_blocks_leave_for_their_backward_is_counted_by_the_length_of_rows(config: ModelConfig) -> None:
    """In bytes, as compiled blocks leave it: by the partitioner that a GPU's compiler takes."""
    model = Bamba(config)
    init_weights(model, config, 1)
    for name, parameter in model.named_parameters():
        if not is_vector(name, parameter):
            parameter.data = parameter.data.bfloat16()
    short, long = 256, 512
    once = partial(torch.compile, fullgraph=True, backend="aot_eager_decomp_partition")
    again = partial(partial, checkpoint, use_reentrant=False, preserve_rng_state=False)
    for change, recompute in ((once, "none"), (again, "full")):
        grown = zip(*(left_behind(model, tokens, change) for tokens in (short, long)), strict=True)
        for parts, (few, many) in zip(config.layer_parts, grown, strict=True):
            counted = 4 * config.hidden_size + (2 * kept_numbers(config, parts) if recompute == "none" else 0)
            most = 1.05 * counted
            if recompute == "none" and parts.mixer == "attention":
                # of a CPU: a mask of all pairs, and copies of the keys and of the result
                many -= 2 * (long**2 - short**2)
                most += 2 * (config.attention_size + config.kv_heads * config.head_dim)
            per_token = (many - few) / (long - short)
            assert 0.99 * counted <= per_token <= most, (parts, recompute, counted, per_token)


@pytest.mark.parametrize("length", [1 << 15, 1 << 17])
def test_each_way_of_keeping_less_is_counted_and_ranks_share_it(length: int) -> None:
    def need(*changes: str, ranks: int = 8) -> MemoryNeed:
        rows = [
            f"data.row_tokens={length}",
            "data.batch_rows=1",
            "compute.micro_rows=1",
            f"compute.context_ranks={ranks}",
        ]
        return minimum_need(load_recipe("bamba-9b-phase1", [*rows, *changes]), ranks)

    full, offload = "compute.recompute=full", "compute.offload_residuals=true"
    plain, less, away = need(), need(full), need(full, offload)
    assert plain.activations > 6 * less.activations > 12 * away.activations
    streams = 32 * 4096 * 4 * length // 8
    assert away.host == streams * 30 // 32 == less.activations - away.activations
    assert need(full, "compute.residual=compute").activations == less.activations - streams // 2
    halved = need(full, ranks=16)
    assert halved.activations == pytest.approx(less.activations / 2, rel=0.01)
    assert need(ranks=16).activations > plain.activations / 2, "keys and values of whole rows are on every rank"


def test_a_host_that_cannot_take_the_streams_is_refused() -> None:
    asked = ["compute.recompute=full", "compute.offload_residuals=true", "data.row_tokens=1048576"]
    recipe = load_recipe("bamba-9b-phase1", [*asked, "compute.context_ranks=4", "compute.micro_rows=1"])
    with pytest.raises(UserError, match=r"256\.0 GiB of memory, and its 4 ranks would send 120\.0 each"):
        compare_host(recipe, 4, 256 * GIB, 4)
    compare_host(recipe, 4, 512 * GIB, 4)


def test_a_million_tokens_are_answered_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row.way: row for row in long_rows(load_recipe("bamba-9b-phase1").model, GPUS["h200"], 1 << 20)}
    assert [row.gpus for row in rows.values()] == [128, 8, 8, 4, 4]
    for row in rows.values():
        assert row.need is not None and row.need.total * OVER_COUNTED <= 141e9
    said = "\n".join(table("bamba-9b", GPUS["h200"], 1 << 20, list(rows.values())))
    assert "| recompute: full | 8 | 13.7 | 89.7 | 2.0 | 0.0 |" in said and "Offload is arithmetic alone" in said


def test_a_cpu_is_left_alone() -> None:
    check_fits_memory(load_recipe("bamba-9b-phase1", ["data.row_tokens=1048576"]), 1, torch.device("cpu"))


def test_a_record_of_a_gpu_s_memory_is_refused_where_there_is_no_gpu(world: World, tmp_path: Path) -> None:
    rule = load_recipe(RECIPE, ["log.memory_snapshot_step=2"]).log
    with pytest.raises(UserError, match=r"log\.memory_snapshot_step: there is no GPU here"):
        MemorySnapshot(rule, world, tmp_path)
    assert MemorySnapshot(load_recipe(RECIPE).log, world, tmp_path).before(2) is None
