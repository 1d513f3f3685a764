"""The main job as `ray job submit` runs it: a real head, token authentication on, from a clean checkout."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from tests.clusters import RAY, RayCluster, ray_cluster

#: tests/k8s/test_image.py submits the main job in every run.
pytestmark = [pytest.mark.ray, pytest.mark.costly]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("home")) as cluster:
        yield cluster


def submit(head: RayCluster, folder: Path, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", head.url, "--working-dir", str(folder), "--", *entrypoint]
    return subprocess.run(command, env=head.env, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Only what the repository holds for the job; its recipe `demo` has a name by which it is known."""
    folder = tmp_path / "checkout"
    for name in ("bamba", "bamba_data", "loader", "pipelines", "trainer"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = folder / "pipelines/recipes/demo.yaml"
    recipe.write_text(recipe.read_text().replace("name: demo", "name: of-the-checkout", 1))
    return folder


def test_the_demo_as_a_submitted_job_is_published_and_sound(head: RayCluster, checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = submit(head, checkout, "python", "-m", "pipelines.tokenize", "demo", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said[0]["event"] == "plan"
    assert open_dataset(str(out)).manifest.name == "of-the-checkout"
    assert said[-1]["verdict"] == "complete"
    assert said[-1]["dataset"] == open_dataset(str(out)).manifest.digest
    assert verify(str(out), full=True).faults == []


def test_a_submitted_job_with_a_bad_recipe_says_what_is_wrong(head: RayCluster, checkout: Path, tmp_path: Path) -> None:
    done = submit(head, checkout, "python", "-m", "pipelines.tokenize", "nope", "--out", str(tmp_path / "out"))
    assert done.returncode == 1  # `ray job submit` knows no other code
    assert "nope: no such recipe" in done.stdout + done.stderr
    assert "exit code 2" in done.stdout + done.stderr
