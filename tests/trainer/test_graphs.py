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
    plain = found.pop("none")
    assert plain["graphs"] == [0, 0, 0]
    for way, one in found.items():
        assert (one["graphs"], one["breaks"]) == ([2, 2, 2], 0), way
        assert one["loss"] == pytest.approx(plain["loss"], rel=1e-5), way
        assert one["gradient"] == pytest.approx(plain["gradient"], rel=1e-4), way
