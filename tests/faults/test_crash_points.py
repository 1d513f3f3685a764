"""A build that is killed at any point of its storage and run again is the build that was never killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpora import recipe, records, write_jsonl

ROOT = Path(__file__).parents[2]


def sweep(folder: Path, step: int) -> dict[str, object]:
    write_jsonl(folder / "inputs" / "a.json.gz", records(10))
    write_jsonl(folder / "inputs" / "b.json.gz", [*records(4, 20), {"id": "bad"}])
    path = recipe(folder, extra="unit_bytes: 20000\nbad_input: {max_bad_rate: 0.5}")
    command = [sys.executable, "-m", "tests.faults.crash_points", str(path), str(folder), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.costly
def test_killed_at_points_all_along_its_storage_a_build_ends_the_same(tmp_path: Path) -> None:
    found = sweep(tmp_path, step=23)
    assert found["differs"] == {}
    assert int(str(found["tried"])) > 4


@pytest.mark.long
def test_killed_at_every_point_of_its_storage_a_build_ends_the_same(tmp_path: Path) -> None:
    found = sweep(tmp_path, step=1)
    assert found["differs"] == {}
    assert found["tried"] == found["points"]
