"""The script that compares parts of rows with whole rows on GPUs runs here on two CPU processes."""

import json

import pytest

from tests.forking import typed

pytestmark = pytest.mark.costly


def test_parts_are_as_near_to_exact_values_as_whole_rows() -> None:
    done = typed("benchmarks.context", "parity", "--tokens", 192, ranks=2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for dtype, least in (("float32", 2e-6), ("bfloat16", 0.0)):  # a sum of few numbers is off by luck
        parts, rows = (found[f"block, torch.{dtype}"][kind] for kind in ("parts", "rows"))
        worse = {name: (parts[name], error) for name, error in rows.items() if parts[name] > max(1.5 * error, least)}
        assert worse == {}
    parts, rows = (found["hybrid"][f"{kind}, torch.bfloat16"] for kind in ("parts", "rows"))
    assert parts["gradient"] < 1.5 * rows["gradient"] and parts["loss"] < 1e-3


def test_context_ranks_take_the_steps_of_data_ranks_and_both_are_timed() -> None:
    words = ["bamba-3b", "data.row_tokens=192", "compute.compile=false", "compute.dtype=float32"]
    done = typed("benchmarks.context", "speed", *words, "--small", "--steps", 1, ranks=2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["data"]["context_ranks"], found["context"]["context_ranks"]) == (1, 2)
    assert found["context"]["losses"] == pytest.approx(found["data"]["losses"], rel=1e-4)
    assert found["context_over_data"] > 0
