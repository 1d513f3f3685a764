"""What cannot fit a GPU is refused by arithmetic, which counts no more than was measured."""

from pathlib import Path

import pytest
import torch

from bamba_data.errors import UserError
from tests.trainer.job import RECIPE
from trainer.config import load_recipe
from trainer.distributed.fsdp import World
from trainer.observe.memory_estimate import GIB, check_fits_memory, compare, minimum_need
from trainer.observe.memory_snapshot import MemorySnapshot

ALONE = ["optimizer.memory=low", "compute.micro_rows=2"]

#: GiB that torch held at the peak of steps on H200s (benchmarks/results/trainer_h200_20261122T1645.jsonl).
MEASURED = [
    (["data.batch_rows=4"], 2, 113.7),
    ([*ALONE, "data.batch_rows=4", "compute.shard_ranks=1"], 2, 111.7),
    ([*ALONE, "data.batch_rows=4", "compute.shard_ranks=1", "compute.float8=tensorwise"], 2, 98.9),
]


@pytest.mark.parametrize(("changes", "ranks", "gib"), MEASURED)
def test_no_more_is_counted_than_was_measured_and_most_of_it(changes: list[str], ranks: int, gib: float) -> None:
    counted = minimum_need(load_recipe("bamba-9b-phase1", changes), ranks).total / GIB
    assert 0.8 * gib < counted < gib


def test_rows_that_no_gpu_can_hold_are_refused_with_the_parts_and_the_ways_out() -> None:
    recipe = load_recipe("bamba-9b-phase1", [*ALONE, "data.row_tokens=1048576", "data.batch_rows=2"])
    with pytest.raises(UserError) as refused:
        compare(recipe, 1, 141 * GIB, "NVIDIA H200")
    said = str(refused.value)
    assert "NVIDIA H200 has 141.0 GiB and each of 1 ranks needs" in said
    assert "the activations of 2 rows of 1,048,576 tokens (data.row_tokens)" in said
    assert "compute.micro_rows below 2, compute.recompute: full" in said
    compare(load_recipe("bamba-9b-phase1", ALONE), 1, 141 * GIB, "NVIDIA H200")


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


def test_a_cpu_is_left_alone() -> None:
    check_fits_memory(load_recipe("bamba-9b-phase1", ["data.row_tokens=1048576"]), 1, torch.device("cpu"))


def test_a_record_of_a_gpu_s_memory_is_refused_where_there_is_no_gpu(world: World, tmp_path: Path) -> None:
    rule = load_recipe(RECIPE, ["log.memory_snapshot_step=2"]).log
    with pytest.raises(UserError, match=r"log\.memory_snapshot_step: there is no GPU here"):
        MemorySnapshot(rule, world, tmp_path)
    assert MemorySnapshot(load_recipe(RECIPE).log, world, tmp_path).before(2) is None
