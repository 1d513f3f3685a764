"""Real ranks that stop and go on as another number of ranks: the same rows, each once, and the same losses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def train(world_size: int, data: Path, folder: Path, begin: int, end: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    job = ["-m", "tests.faults.loader_job", data, folder / "cache", folder, begin, end]
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, job)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]


def ledger(folder: Path) -> tuple[dict[int, str], dict[int, float]]:
    """Digest by row, and loss by step; that a row comes twice or two ranks differ in a loss is a failure."""
    rows: dict[int, str] = {}
    losses: dict[int, float] = {}
    for path in folder.glob("rank-*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            assert losses.setdefault(entry["step"], entry["loss"]) == entry["loss"]
            for row, digest in entry["rows"]:
                assert row not in rows, f"row {row} was served twice"
                rows[row] = digest
    return rows, losses


@pytest.mark.costly
@pytest.mark.timeout(600)
def test_two_ranks_stop_and_three_go_on_with_the_same_rows_and_losses(mixed_data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    train(1, mixed_data, whole, 0, 20)
    train(2, mixed_data, parts, 0, 9)
    train(3, mixed_data, parts, 9, 20)
    rows, losses = ledger(whole)
    found, same = ledger(parts)
    assert sorted(found) == list(range(200))
    assert found == rows
    assert sorted(same) == list(range(20))
    assert all(abs(same[step] - losses[step]) < 1e-4 for step in losses)
    assert losses[19] < losses[0]
    ends = [json.loads((folder / "state-20.json").read_text())["loader"] for folder in (whole, parts)]
    assert ends[0] == ends[1]
