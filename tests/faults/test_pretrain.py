"""The trainer on Ray nodes, through Ray Train: one is lost, and the run learns what an undisturbed one learns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bamba_data.storage.store import LocalStore
from bamba_data.tokenization.conformance import Certificate
from pipelines.observe import runs
from tests.clusters import SOON_LOST, kill_node, ray_cluster
from tests.loader.real import documents, publish
from tests.running import kill_all, wait_for
from tests.trainer.running import ledger, lines, losses, newest
from trainer.checkpoint.commits import folders

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]
STEPS, EVERY = 60, 4
SOON = 300.0  # seconds, on a machine that is busy with other things
#: Ray gives its workers a niceness of 15; beside other tests a trainer would starve.
PLAIN = {**SOON_LOST, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def arguments(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of a tiny hybrid on two sources, but for its folder."""
    sources = {"up": documents(120, 900, prefix="u"), "down": documents(80, 300, prefix="d")}
    data = publish(tmp_path_factory.mktemp("dataset"), certificate, sources)
    changes = [f"schedule.steps={STEPS}", f"checkpoints.every_steps={EVERY}", "log.every_steps=1"]
    changes += ["data.row_tokens=64", "data.batch_rows=4"]
    words = ["--recipe", "tiny-cpu", "--data", str(data)]
    return [*words, *(word for change in changes for word in ("--set", change))]


def committed(out: Path) -> list[int]:
    """The steps after which a whole checkpoint stands."""
    return [folder.step for folder in folders(LocalStore(out / "checkpoints")) if folder.committed]


def test_a_lost_node_costs_the_steps_since_a_checkpoint_and_no_row(arguments: list[str], tmp_path: Path) -> None:
    """Two ranks on two nodes; one goes, the other goes on alone."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments, "--out", str(tmp_path / "quiet")],
        env=env,
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert quiet.returncode == 0, quiet.stderr

    out, log = tmp_path / "run", tmp_path / "run.log"
    with ray_cluster(tmp_path, cpus=0, extra_env=PLAIN) as cluster:
        nodes = [cluster.add_node(), cluster.add_node()]
        command = [sys.executable, "-m", "pipelines.pretrain", *arguments, "--out", str(out), "--ranks", "2"]
        with log.open("wb") as file:
            driver = subprocess.Popen(
                [*command, "--address", cluster.gcs], env=cluster.env, stdout=file, stderr=file, start_new_session=True
            )
        try:
            wait_for(lambda: driver.poll() is not None or committed(out), SOON, "a checkpoint of two ranks")
            assert driver.poll() is None, log.read_text()
            before = [line for line in lines(out) if "loss" in line]
            kill_node(nodes[0])
            assert driver.wait(SOON) == 0, log.read_text()
        finally:
            kill_all(driver)  # type: ignore[arg-type]
        other = [*command, "--address", cluster.gcs, "--set", "data.seed=5"]
        refused, again = (
            subprocess.run(other, env=cluster.env, capture_output=True, text=True, timeout=SOON, check=False)
            for _ in range(2)
        )
    assert before[-1]["step"] < STEPS - EVERY
    (resumed,) = [line for line in lines(out) if line.get("event") == "resumed"]
    assert resumed["world_size"] == 1 and resumed["step"] % EVERY == 0
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == STEPS
    assert ledger(out) == ledger(tmp_path / "quiet")
    assert losses(out) == pytest.approx(losses(tmp_path / "quiet"), rel=1e-4)
    # What trying again cannot help ends the group: the rank's exit code is the command's.
    assert refused.returncode == 2, refused.stderr
    assert "data.seed was 2023, is 5" in refused.stdout + refused.stderr
    assert again.returncode == 2 and "nothing was done now" in again.stderr
    verdicts = [(one.verdict, one.exit_code) for one in runs.attempts(LocalStore(out))]
    assert verdicts == [("complete", 0), ("stop", 2)]
