"""Checkpoints that earlier versions wrote are read, and training goes on from them as it did then."""

import json
import shutil
from pathlib import Path

import pytest

from tests.trainer.running import GOLDEN, job, losses
from trainer.checkpoint.reader import SavedCheckpoint


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A copy of the run that commit 3b49549 wrote, which may go on."""
    return Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))


def test_a_checkpoint_of_an_earlier_version_is_read(earlier: Path) -> None:
    saved = SavedCheckpoint(str(earlier))
    assert saved.commit["step"] == 4
    assert saved.tensor("model.embedding.weight").shape == (48, 16)
    assert all(saved.tensor(name).isfinite().all() for name in saved.index)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_of_an_earlier_version_goes_on_as_it_did_then(earlier: Path, ranks: int) -> None:
    then = losses(earlier)
    (earlier / "metrics.jsonl").unlink()
    done = job(earlier, ranks, *(GOLDEN / "changes.txt").read_text().split())
    assert done.returncode == 0, done.stderr
    assert "goes on after step 4" in done.stderr
    assert losses(earlier) == {step: pytest.approx(then[step], rel=1e-4) for step in range(5, 9)}
    assert json.loads((earlier / "metrics.jsonl").read_text().splitlines()[0])["event"] == "resumed"
