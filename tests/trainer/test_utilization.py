"""What part of a GPU's peak a run uses, and that it is said of which peak."""

import pytest

from trainer.config import load_recipe
from trainer.observe.metrics import utilization, utilization_said


def test_a_float8_run_says_both_peaks_and_a_bfloat16_run_its_own() -> None:
    recipe = load_recipe("bamba-9b-phase1")
    plain = utilization(recipe, 9_619, "NVIDIA H200")
    assert plain == {"mfu": pytest.approx(0.547, abs=1e-3)}  # as measured: docs/kernels.md
    assert utilization_said(plain) == ", MFU 54.7%"
    recipe = load_recipe("bamba-9b-phase1", ["compute.float8=tensorwise"])
    float8 = utilization(recipe, 12_900, "NVIDIA H200")
    assert utilization_said(float8) == ", MFU 73.4% of the peak in bfloat16, 36.7% of that in float8"
    assert utilization(recipe, 12_900, "NVIDIA A100-SXM4") == {"mfu": pytest.approx(2.327, abs=1e-3)}
    assert utilization_said(utilization(recipe, 12_900, "another")) == ""
