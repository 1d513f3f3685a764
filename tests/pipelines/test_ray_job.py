"""The main job as `ray job submit` runs it: a real head, token authentication on, from a clean checkout."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bamba_data.dataset import open_dataset
from bamba_data.verify import verify

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Head:
    """A running head: where its job server answers, and the environment that may talk to it."""

    url: str
    env: dict[str, str]

    def submit(self, folder: Path, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", self.url, "--working-dir", str(folder), "--", *entrypoint]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    port, dashboard = _free_port(), _free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # a job says `python`: this one
    env = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "PATH": path}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    start = [RAY, "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    start += ["--object-store-memory=100000000", "--block"]
    process = subprocess.Popen(
        start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        subprocess.run(
            [sys.executable, "-c", _WAIT, url], env={**env, "RAY_API_SERVER_ADDRESS": url}, check=True, timeout=120
        )
        yield Head(url, env)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_WAIT = """
import sys, time
from ray.job_submission import JobSubmissionClient
for _ in range(200):
    try:
        JobSubmissionClient(sys.argv[1]).list_jobs()
        break
    except Exception as error:
        last = error
        time.sleep(0.3)
else:
    raise SystemExit(f"the head does not answer: {last}")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Only what the repository holds for the job."""
    folder = tmp_path / "checkout"
    for name in ("bamba_data", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_the_demo_as_a_submitted_job_is_published_and_sound(head: Head, checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = head.submit(checkout, "python", "-m", "pipelines.tokenize", "demo", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said[0]["event"] == "plan"
    assert said[-1]["verdict"] == "complete"
    assert said[-1]["dataset"] == open_dataset(str(out)).manifest.digest
    assert verify(str(out), full=True).faults == []


def test_a_submitted_job_with_a_bad_recipe_says_what_is_wrong(head: Head, checkout: Path, tmp_path: Path) -> None:
    done = head.submit(checkout, "python", "-m", "pipelines.tokenize", "nope", "--out", str(tmp_path / "out"))
    assert done.returncode == 1  # `ray job submit` knows no other code
    assert "nope: no such recipe" in done.stdout + done.stderr
    assert "exit code 2" in done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
