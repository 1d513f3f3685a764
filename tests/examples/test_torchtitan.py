"""The example of torchtitan's loader interface, where torchtitan is."""

import subprocess
from pathlib import Path

import pytest

from tests.examples.running import EXAMPLES, environment
from tests.peers import TORCHTITAN
from tests.peers import environment as peer


@pytest.mark.peers
def test_torchtitan_s_interface_goes_on_with_other_ranks_and_another_batch(demo: Path, tmp_path: Path) -> None:
    python = peer("torchtitan", TORCHTITAN)
    command = [str(python), str(EXAMPLES / "with_torchtitan.py"), str(demo), "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "two ranks: 5 batches of [[4, 64], [4, 64]], then row 40\n" in done.stdout
    assert "one rank: 5 batches of [6, 64], then row 70\n" in done.stdout
