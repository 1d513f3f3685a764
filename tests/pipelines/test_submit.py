"""`bamba-data submit`, `status`, `logs`, `stop` against a real head with token authentication on."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from bamba_data.dataset import open_dataset
from bamba_data.errors import UserError
from pipelines import runs
from pipelines.runs import Run
from pipelines.submit import Submission, arguments
from tests.clusters import RayCluster, ray_cluster
from tests.corpora import recipe, records, write_jsonl
from tests.running import COMMAND, wait_for

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-aws",
    "HF_TOKEN": "canary-of-the-hub",
    "SOME_PASSWORD": "canary-of-a-password",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("home"), cpus=2) as running:
        yield running


@pytest.fixture
def slow(tmp_path: Path) -> list[str | Path]:
    """A recipe in a file of its own, some ten seconds of work: how it is asked for."""
    for n in range(4):
        write_jsonl(tmp_path / "inputs" / f"{n}.json.gz", records(240, n * 240))
    path = recipe(tmp_path, backend="tokenizers", extra="unit_bytes: 1")
    return [path, "--set", f"corpora.0.base={tmp_path / 'inputs'}", "--out", tmp_path / "out", "--interval", "0.5"]


def start(cluster: RayCluster, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments), "--cluster", cluster.url]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, env={**cluster.env, **env}, **pipes)  # type: ignore[call-overload,no-any-return]


def run(cluster: RayCluster, *arguments: str | Path, **env: str) -> tuple[int, str]:
    process = start(cluster, *arguments, **env)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def jobs(cluster: RayCluster, out: Path) -> list[dict[str, object]]:
    code, said = run(cluster, "status", "--json")
    assert code == 0, said
    return [job for job in json.loads(said)["jobs"] if job["out"] == str(out)]


@pytest.mark.ray
def test_two_submits_of_one_plan_are_one_job_and_both_end_with_its_verdict(
    cluster: RayCluster, slow: list[str | Path], tmp_path: Path
) -> None:
    both = [start(cluster, "submit", *slow, **CANARIES) for _ in range(2)]
    wait_for(lambda: "ray_bamba_units" in requests.get(cluster.metrics_url, timeout=9).text, what="the first metric")
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("joining job" in one for one in said) == [False, True]
    assert [job["status"] for job in jobs(cluster, tmp_path / "out")] == ["SUCCEEDED"]
    dataset = open_dataset(str(tmp_path / "out")).manifest.digest
    assert all(f'"dataset": "{dataset}"' in one for one in said)
    records_of_it = requests.get(f"{cluster.url}/api/jobs/", headers=cluster.headers(), timeout=30).text
    assert "bamba_run" in records_of_it and "canary" not in records_of_it
    assert "canary" not in requests.get(cluster.metrics_url, timeout=9).text
    assert not any("canary" in one for one in said)
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"canary" in data for data in written)


@pytest.mark.ray
def test_the_verdict_of_the_job_is_the_exit_code_and_a_stop_is_kept_to(cluster: RayCluster, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "inputs" / "0.json.gz", records(20))
    path.write_bytes(path.read_bytes()[:-300] + bytes(300))
    asked = [recipe(tmp_path), "--set", f"corpora.0.base={tmp_path / 'inputs'}", "--out", tmp_path / "out"]
    code, said = run(cluster, "submit", *asked)
    assert code == 5 and "0.json.gz" in said
    code, said = run(cluster, "submit", *asked)
    assert code == 5 and "nothing was done" in said and "--retry-stopped" in said
    assert len(list((tmp_path / "out" / runs.FOLDER).glob("*/*/status.json"))) == 1
    assert [job["exit_code"] for job in jobs(cluster, tmp_path / "out")] == [5, 5]
    code, said = run(cluster, "logs", str(jobs(cluster, tmp_path / "out")[0]["job"]), "--follow")
    assert code == 5 and "0.json.gz" in said


@pytest.mark.ray
def test_a_job_that_is_stopped_can_go_on(cluster: RayCluster, slow: list[str | Path], tmp_path: Path) -> None:
    first = start(cluster, "submit", *slow)
    parts = "_bamba/units/*/*/part-*.json"
    wait_for(lambda: first.poll() is not None or list((tmp_path / "out").glob(parts)), 200, "a finished part")
    assert first.poll() is None, first.communicate()[0]
    job = str(jobs(cluster, tmp_path / "out")[0]["job"])
    assert run(cluster, "stop", job)[0] == 0
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 4, said
    code, said = run(cluster, "submit", *slow)
    assert code == 0, said
    assert [job["status"] for job in jobs(cluster, tmp_path / "out")] == ["STOPPED", "SUCCEEDED"]


@pytest.mark.ray
def test_a_bad_recipe_and_a_wrong_token_end_before_there_is_a_job(cluster: RayCluster, tmp_path: Path) -> None:
    code, said = run(cluster, "submit", "demo", "--out", tmp_path / "out", "--set", "unit_bytes=no")
    assert code == 2 and "unit_bytes" in said
    code, said = run(cluster, "submit", "demo", "--out", tmp_path / "out", HOME=str(tmp_path))
    assert code == 2 and "RAY_AUTH_TOKEN" in said
    code, said = run(cluster, "logs", "nobody")
    assert code == 2 and "no such job" in said
    assert jobs(cluster, tmp_path / "out") == []


def test_where_no_cluster_is_nothing_is_started(tmp_path: Path) -> None:
    command = [*COMMAND, "submit", "demo", "--out", str(tmp_path / "out"), "--cluster", "http://127.0.0.1:9"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 4 and "no job server answers" in done.stderr
    assert not list(tmp_path.iterdir())


RUN = Run("demo-0123456789ab", "build", "demo")


@pytest.mark.parametrize("url", ["s3://key:canary@bucket/x", "https://canary@host/x"])
def test_credentials_in_a_url_never_reach_the_dashboard(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="credentials") as in_out:
        Submission(RUN, url, ())
    with pytest.raises(UserError, match="credentials"):
        Submission(RUN, "/out", ("demo", "--set", f"corpora.0.base={url}"))
    (tmp_path / "mine.yaml").write_text(f"base: {url}")
    with pytest.raises(UserError, match="credentials") as in_file:
        Submission(RUN, "/out", ("mine.yaml",), tmp_path / "mine.yaml")
    assert "canary" not in f"{in_out.value}{in_file.value}"


def test_a_relative_place_is_refused() -> None:
    with pytest.raises(UserError, match="relative path"):
        Submission(RUN, "data/out", ())


def test_the_command_line_is_quoted_for_the_shell_that_ray_runs_it_in() -> None:
    line = arguments("demo", "--out", "/a b;c", [("--set", ["x=1 2"]), ("--relock", True), ("--workers", None)])
    assert Submission(RUN, "/a b;c", line).entrypoint == (
        "python -m pipelines.tokenize demo --out '/a b;c' --set 'x=1 2' --relock"
    )


def test_one_run_into_two_places_is_two_jobs() -> None:
    assert Submission(RUN, "s3://b/one", ()).stem != Submission(RUN, "s3://b/two", ()).stem
    assert Submission(RUN, "s3://b/one", ()).stem == Submission(RUN, "s3://b/one", ("--workers", "3")).stem
