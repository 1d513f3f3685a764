"""`bamba-data submit`, `status`, `logs`, `stop` against a real head with token authentication on."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import RUNS
from pipelines.observe.runs import Run
from pipelines.ray_jobs.submit import Submission, arguments
from tests.clusters import RayCluster, ray_cluster
from tests.corpora import recipe, records, write_jsonl
from tests.running import COMMAND, wait_for
from tests.servers.faults import Fault, Status
from tests.servers.gate import GatedFiles
from tests.servers.proxy import FlakyProxy

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-aws",
    "HF_TOKEN": "canary-of-the-hub",
    "SOME_PASSWORD": "canary-of-a-password",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Its processes have secrets in their environment, as pods have those of Kubernetes."""
    with ray_cluster(tmp_path_factory.mktemp("home"), cpus=2, extra_env=CANARIES) as running:
        yield running


@dataclass
class Held:
    """A recipe in a file of its own, and how it is asked for. It cannot end before its input is let through."""

    asked: list[str | Path]
    files: GatedFiles


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    names = [f"{n}.jsonl" for n in range(3)]
    for n, name in enumerate(names):
        write_jsonl(tmp_path / "inputs" / name, records(110, n * 110))
    blocks = "{block_tokens: 16384, blocks_per_shard: 3}"
    path = recipe(tmp_path, names, backend="tokenizers", blocks=blocks, extra="unit_bytes: 1")
    with GatedFiles(tmp_path / "inputs", held={"1.jsonl"}) as files:
        place = ["--set", f"corpora.0.base={files.url}", "--out", tmp_path / "out"]
        yield Held([path, *place, "--interval", "0.5"], files)


def start(cluster: RayCluster, *arguments: str | Path, log: Path | None = None, **env: str) -> subprocess.Popen[str]:
    """What it says goes into `log`, or is kept for `communicate`."""
    command = [*COMMAND, *map(str, arguments), "--cluster", cluster.url]
    with contextlib.ExitStack() as stack:
        to = stack.enter_context(log.open("w")) if log else subprocess.PIPE
        return subprocess.Popen(command, text=True, env={**cluster.env, **env}, stdout=to, stderr=subprocess.STDOUT)


def run(cluster: RayCluster, *arguments: str | Path, **env: str) -> tuple[int, str]:
    process = start(cluster, *arguments, **env)
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def jobs(cluster: RayCluster, out: Path) -> list[dict[str, object]]:
    code, said = run(cluster, "status", "--json")
    assert code == 0, said
    return [job for job in json.loads(said)["jobs"] if job["out"] == str(out)]


@pytest.mark.costly
@pytest.mark.ray
def test_two_submits_of_one_plan_are_one_job_and_both_end_with_its_verdict(
    cluster: RayCluster, held: Held, tmp_path: Path
) -> None:
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    both = [start(cluster, "submit", *held.asked, log=log) for log in logs]
    wait_for(lambda: all(" job " in log.read_text() for log in logs), 200, "both to have a job")
    wait_for(lambda: "ray_bamba_units" in requests.get(cluster.metrics_url, timeout=9).text, 200, "the first metric")
    held.files.open()
    codes, said = [process.wait(240) for process in both], [log.read_text() for log in logs]
    assert codes == [0, 0], said
    assert sorted("joining job" in one for one in said) == [False, True]
    assert [job["status"] for job in jobs(cluster, tmp_path / "out")] == ["SUCCEEDED"]
    dataset = open_dataset(str(tmp_path / "out")).manifest.digest
    assert all(f'"dataset": "{dataset}"' in one for one in said)
    records_of_it = requests.get(f"{cluster.url}/api/jobs/", headers=cluster.headers(), timeout=30).text
    assert "bamba_run" in records_of_it and "canary" not in records_of_it
    assert "canary" not in requests.get(cluster.metrics_url, timeout=9).text
    assert not any("canary" in one for one in said)
    shown = Path(cluster.env["RAY_TMPDIR"]).glob("ray/session_2*/logs/*")  # by the dashboard, to whoever reaches it
    written = [path for path in (*(tmp_path / "out").rglob("*"), *shown) if path.is_file()]
    assert {".parquet", ".json", ".jsonl", ".log", ".err"} <= {path.suffix for path in written}
    assert not [path for path in written if b"canary" in path.read_bytes()]


@pytest.mark.costly
@pytest.mark.ray
def test_the_verdict_of_the_job_is_the_exit_code_and_a_stop_is_kept_to(cluster: RayCluster, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "inputs" / "0.json.gz", records(20))
    path.write_bytes(path.read_bytes()[:-300] + bytes(300))
    asked = [recipe(tmp_path), "--set", f"corpora.0.base={tmp_path / 'inputs'}", "--out", tmp_path / "out"]
    code, said = run(cluster, "submit", *asked)
    assert code == 5 and "0.json.gz" in said and "canary" not in said
    code, said = run(cluster, "submit", *asked)
    assert code == 5 and "nothing was done" in said and "--retry-stopped" in said
    assert len(list((tmp_path / "out" / RUNS).glob("*/*/status.json"))) == 1
    assert [job["exit_code"] for job in jobs(cluster, tmp_path / "out")] == [5, 5]
    code, said = run(cluster, "logs", str(jobs(cluster, tmp_path / "out")[0]["job"]), "--follow")
    assert code == 5 and "0.json.gz" in said


@pytest.mark.costly
@pytest.mark.ray
def test_a_job_that_is_stopped_can_go_on(cluster: RayCluster, held: Held, tmp_path: Path) -> None:
    first = start(cluster, "submit", *held.asked)
    parts = "_bamba/units/*/*/part-*.json"
    wait_for(lambda: first.poll() is not None or list((tmp_path / "out").glob(parts)), 200, "a finished part")
    assert first.poll() is None, first.communicate()[0]
    job = str(jobs(cluster, tmp_path / "out")[0]["job"])
    assert run(cluster, "stop", job)[0] == 0
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 4, said
    held.files.open()
    code, said = run(cluster, "submit", *held.asked)
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


@pytest.mark.ray
def test_a_cluster_that_takes_no_jobs_yet_is_waited_for_and_any_other_refusal_is_one_line(
    cluster: RayCluster, tmp_path: Path
) -> None:
    """What a head says that has just started, put into the mouth of one that takes them: a race cannot be asked for."""
    asked = [*COMMAND, "submit", "demo", "--out", str(tmp_path / "out"), "--no-wait"]

    def submitted(status: Status, times: int) -> tuple[int, str]:
        with FlakyProxy(cluster.url) as proxy:
            proxy.faults.append(Fault("^POST /api/jobs/$", status, times=times))
            command = [*asked, "--cluster", proxy.url]
            done = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=240, check=False)
            assert proxy.faults == []
        return done.returncode, done.stderr

    code, said = submitted(Status(500, code="the disk is full"), 1)
    assert code == 4 and said.count("\n") == 1 and "the disk is full" in said
    code, said = submitted(Status(400, code="no such field"), 1)
    assert code == 2 and said.count("\n") == 1 and "no such field" in said
    assert jobs(cluster, tmp_path / "out") == []
    code, said = submitted(Status(500, code="No available agent to submit job, please try again later."), 2)
    assert code == 0 and "submitted job" in said
    (job,) = jobs(cluster, tmp_path / "out")
    assert run(cluster, "stop", str(job["job"]))[0] == 0


def test_where_no_cluster_is_nothing_is_started(tmp_path: Path) -> None:
    command = [*COMMAND, "submit", "demo", "--out", str(tmp_path / "out"), "--cluster", "http://127.0.0.1:9"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 4 and "no job server answers" in done.stderr
    assert not list(tmp_path.iterdir())


RUN = Run("demo-0123456789ab", "build", "demo")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:canary@bucket/x",
        "https://canary@host/x",
        "https://user:can/ary@host/x",
        "https://host/x?token=canary",
        "https://host/x?a=1&X-Amz-Signature=canary",
        "s3://bucket/x?secret=canary",
    ],
)
def test_credentials_in_a_url_never_reach_the_dashboard(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="credentials") as in_out:
        Submission(RUN, url, ())
    with pytest.raises(UserError, match="credentials"):
        Submission(RUN, "/out", ("demo", "--set", f"corpora.0.base={url}"))
    (tmp_path / "mine.yaml").write_text(f"base: {url}")
    with pytest.raises(UserError, match="credentials") as in_file:
        Submission(RUN, "/out", ("mine.yaml",), tmp_path / "mine.yaml")
    assert "canary" not in f"{in_out.value}{in_file.value}"


def test_a_secret_of_the_environment_never_reaches_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-the-hub")
    with pytest.raises(UserError, match="credentials") as refused:
        Submission(RUN, "/out", ("demo", "--set", "corpora.0.base=https://host/canary-of-the-hub/x"))
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://host:8443/x@v1", "hf://datasets/org/name@main", "s3://bucket/a:b"])
def test_a_url_without_a_secret_is_no_secret(url: str) -> None:
    assert url in Submission(RUN, "/out", ("demo", "--set", f"corpora.0.base={url}")).entrypoint


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
