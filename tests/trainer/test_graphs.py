"""Compiled blocks are two graphs, however deep the model, made once and never broken; recomputing changes nothing."""

import json
import os
import subprocess
import sys

import pytest


def test_all_blocks_share_two_graphs_that_are_made_in_the_first_step_whatever_is_recomputed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.graphs"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    plain, summed = found.pop("none"), found.pop("summed none")
    assert plain["graphs"] == summed["graphs"] == [0, 0, 0]
    assert len(found) == 6
    for way, one in found.items():
        like, off = (summed, 0.02) if way.startswith("summed") else (plain, 1e-5)  # products in bfloat16 or float32
        assert (one["graphs"], one["breaks"]) == ([2, 2, 2], 0), way
        assert one["loss"] == pytest.approx(like["loss"], rel=off), way
        assert one["gradient"] == pytest.approx(like["gradient"], rel=max(off, 1e-4)), way
