"""Losses of runs beside each other: means and deviations over seeds, and whether a difference is within the spread."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.loss_curves import Seeds, compared, read, rows


def metrics(file: Path, height: float, steps: int = 100) -> Path:
    lines = [{"step": step, "loss": height + 1 / step} for step in range(5, steps + 1, 5)]
    held = [{"event": "held out", "step": steps, "held_out/a": height, "held_out/b": height + 1}]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *held]))
    return file


def test_a_difference_is_held_against_what_seeds_differ_by() -> None:
    base = Seeds([2.0, 2.2])
    assert base.deviation == pytest.approx(0.02**0.5)
    assert compared(base, Seeds([2.05, 2.25])).endswith("+0.0500 (+2.38%), within 0.1414")
    assert compared(base, Seeds([2.3, 2.5])).endswith("+0.3000 (+14.29%), beyond 0.1414")
    assert compared(Seeds([2.0]), Seeds([2.1])) == "2.1000  +0.1000 (+5.00%)"


def test_a_run_that_was_cut_is_compared_as_far_as_it_came(tmp_path: Path) -> None:
    long, short = read(metrics(tmp_path / "long", 2)), read(metrics(tmp_path / "short", 2, steps=50))
    found = rows({"one": [long, long], "other": [short]})
    assert len(found) == 10 and list(found)[-1] == "46 to 50"  # no held-out loss of the same step
    assert found["46 to 50"]["one"].values == pytest.approx([2.02, 2.02])


@pytest.mark.slow
def test_the_command_prints_a_table_and_draws_bands(tmp_path: Path) -> None:
    heights = {"bfloat16": (2.0, 2.1), "float8": (2.02, 2.12)}
    words = [f"{name}={metrics(tmp_path / f'{name}{at}', at)}" for name, each in heights.items() for at in each]
    command = [sys.executable, "-m", "benchmarks.loss_curves", *words, "--picture", str(tmp_path / "curves.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, _, *body = done.stdout.splitlines()
    assert head == "| mean loss of steps | bfloat16, 2 seeds | float8, 2 seeds |"
    assert len(body) == 13 and all("within 0.0707" in line for line in body)
    assert body[-1].startswith("| held out at 100, mean | 2.5500 ± 0.0707 | 2.5700 ± 0.0707  +0.0200")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
