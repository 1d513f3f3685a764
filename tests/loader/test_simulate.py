"""A plan is simulated by the code that serves it, at sizes that nobody reads in a test."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bamba_data.errors import UserError
from loader.order.plan import MixPlan
from loader.tools.simulate import Size, simulate, simulate_plan
from tests.loader.bamba import WEIGHTS


def plan(batch_rows: int = 384, **header: object) -> MixPlan:
    weights = {f"source-{number:02d}": weight for number, weight in enumerate(WEIGHTS)}
    fields = {"seed": 1, "row_tokens": 4096, "before": [], "after": [0]} | header
    return MixPlan.create(weights, dict.fromkeys(weights, "x"), batch_rows, **fields)


def test_tokens_and_epochs_follow_the_weights() -> None:
    made = plan()
    sizes = {name: Size(1e9) for name in made.sources}
    found = simulate(made, sizes, 8, 1e11, 50)
    total = sum(WEIGHTS)
    assert found.steps == -(-round(1e11) // (4096 * 384))
    for one, weight in zip(found.sources, WEIGHTS, strict=True):
        assert one.epochs == pytest.approx(100 * weight / total, rel=1e-3)


def test_the_mix_on_ranks_is_within_its_bound() -> None:
    for world_size, bound in ((1, 7), (8, 7), (192, 7), (100, 10)):
        (mix,) = simulate(plan(), {}, world_size, 1e10, 400).mixes
        assert mix.overall <= 7 and mix.worst_rank <= bound


def test_blocks_read_are_those_of_a_random_sample() -> None:
    """Against counting: rows dealt at random to ranks, blocks counted."""
    import numpy as np

    made = plan(window_rows=640)
    one = MixPlan.create({"a": 1}, {"a": "x"}, 64, **made.header.model_dump(exclude={"step_rows", "format"}))
    world_size, block_rows = 32, 64
    (found,) = simulate(one, {"a": Size(4096 * 640, 4096 * block_rows)}, world_size, 4096 * 640, 10).sources
    dice = np.random.default_rng(0)
    counted = Counter[int]()
    for _ in range(200):
        mine = dice.permutation(640)[: 640 // world_size]
        counted["blocks"] += len(set((mine // block_rows).tolist()))
    assert found.rank_blocks == pytest.approx(counted["blocks"] / 200, rel=0.05)


def test_ten_thousand_ranks_and_a_corpus_that_is_not_there(tmp_path: Path) -> None:
    made = plan(batch_rows=20_000)
    (tmp_path / "plan.json").write_bytes(made.dumps())
    sizes = [part for name in made.sources for part in ("--source-tokens", f"{name}=1e11")]
    command = [sys.executable, "-m", "loader.simulate", str(tmp_path / "plan.json"), "--world-size", "10000", *sizes]
    done = subprocess.run([*command, "--json", "--steps", "100"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["world_size"] == 10_000 and len(found["sources"]) == 19
    assert found["amplification"] == pytest.approx(65, rel=0.05)  # a row of a block of 64, and some of two
    assert found["rank_bytes"] * 10_000 == pytest.approx(found["cluster_bytes"])
    wrong = subprocess.run([*command, "--source-tokens", "nothing=1"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "source-00" in wrong.stderr


@pytest.mark.parametrize("size", ["0", "nan", "-1e9", "inf"])
def test_a_size_that_no_source_has_is_refused(size: str, tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    with pytest.raises(UserError, match="a number of tokens from 1 on"):
        simulate_plan(tmp_path / "plan.json", 8, 1e9, [], [f"source-00={size}"], 10)
