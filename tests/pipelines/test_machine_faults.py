"""One machine's trouble is not the build's: on a real cluster of two nodes, one of which is broken in some way."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import BambaError, MachineFault, SourceUnavailable, StoreUnavailable
from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.recipe import Network
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import LocalStore
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here
from pipelines.observe import runs
from pipelines.observe.counters import Counters
from pipelines.observe.display import Display
from pipelines.observe.progress import Snapshot
from pipelines.ray_jobs.executor import Fault, Options, TaskRunner
from pipelines.ray_jobs.session import task_runner
from tests.clusters import RayCluster, ray_cluster
from tests.corpora import recipe, records, write_jsonl
from tests.running import COMMAND, bamba

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of a node of its own needs root")
NAMES = [f"{n}.jsonl" for n in range(6)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    for n, name in enumerate(NAMES):
        write_jsonl(folder / "inputs" / name, records(30, n * 30, 2000))
    return recipe(folder, NAMES, extra="unit_bytes: 1")


@pytest.fixture(scope="module")
def quiet(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    loaded, folder = load_recipe(str(inputs), None)
    prepared = prepare(loaded, folder, str(tmp_path_factory.mktemp("quiet")), Fetcher())
    assert run_here(prepared, Fetcher()) == []
    return finish(prepared)[1].digest


def with_a_full_disk(folder: Path) -> list[str]:
    """A command that starts what follows where `folder` is a disk of 8 kB."""
    folder.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=8k tmpfs '{folder}' && exec \"$@\""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]


def built(cluster: RayCluster, inputs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "build", str(inputs), "--out", str(out), "--address", cluster.gcs, "--interval", "1"]
    return subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=600, check=False)


def is_one_line(stderr: str) -> None:
    assert "Traceback" not in stderr and "\x1b" not in stderr
    assert len([line for line in stderr.splitlines() if line]) <= 3, stderr


@pytest.mark.costly
@needs_root
def test_a_node_whose_disk_is_full_is_left_out_and_the_build_is_whole(inputs: Path, quiet: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ray_cluster(tmp_path, cpus=0) as cluster:
        cluster.add_node(cpus=5, inside=with_a_full_disk(out / "dataset=texts"))
        cluster.add_node(cpus=1)
        done = built(cluster, inputs, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert open_dataset(str(out)).manifest.digest == quiet
    assert verify(str(out), full=True).faults == []
    status = next(runs.attempts(LocalStore(out)))
    assert status.retries["MachineFault"] >= 3
    assert "left out for 10 minutes after 3 faults: on machine" in done.stdout
    assert f"{out}/dataset=texts/" in done.stdout and "No space left on device" in done.stdout


@pytest.mark.costly
@needs_root
def test_where_every_disk_is_full_the_build_ends_with_a_line_and_goes_on_later(
    inputs: Path, quiet: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with ray_cluster(tmp_path, cpus=0) as cluster:
        cluster.add_node(cpus=1, inside=with_a_full_disk(out / "dataset=texts"))
        ended = built(cluster, inputs, out)
        assert ended.returncode == 4
        is_one_line(ended.stderr)
        assert "no machine is left that can work: on machine " in ended.stderr
        assert f"{out}/dataset=texts/" in ended.stderr and "No space left on device" in ended.stderr
        assert next(runs.attempts(LocalStore(out))).verdict == "unfinished"
        cluster.add_node(cpus=1)
        again = built(cluster, inputs, out)
    assert again.returncode == 0, again.stdout + again.stderr
    assert open_dataset(str(out)).manifest.digest == quiet


@pytest.mark.costly
def test_a_wrong_token_is_a_line_and_no_verdict(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ray_cluster(tmp_path, cpus=1) as cluster:
        env = {**cluster.env, "HOME": str(tmp_path / "nobody"), "RAY_AUTH_TOKEN": "0" * 64}
        command = [*COMMAND, "build", str(inputs), "--out", str(out), "--address", cluster.gcs]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 2, ended.stderr
        is_one_line(ended.stderr)
        assert "does not take our token" in ended.stderr
        assert next(runs.attempts(LocalStore(out))).verdict == "unfinished"
        assert built(cluster, inputs, out).returncode == 0


def test_a_cluster_that_is_not_there_is_a_line(inputs: Path, tmp_path: Path) -> None:
    env = {"RAY_AUTH_MODE": "disabled", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    for address, code in (("127.0.0.1:1", 4), ("nonsense", 2)):
        ended = bamba("build", inputs, "--out", tmp_path / "out", "--address", address, env=env, timeout=400)
        assert ended.returncode == code, ended.stderr
        is_one_line(ended.stderr)
        assert address in ended.stderr


# -- the runner alone, on a Ray of this process


class Quiet(Display):
    """A display that keeps what it was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.last = Snapshot()

    def show(self, snapshot: Snapshot) -> None:
        self.lines += snapshot.lines
        self.last = snapshot


@dataclass(frozen=True)
class Task:
    name: str
    folder: Path
    is_remote: bool = False


@pytest.fixture(scope="module")
def runner() -> Iterator[TaskRunner]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with task_runner(Options(workers=3, straggler_seconds=2.0), Network(retry_seconds=6.0), 100 << 20) as made:
        yield made


def ran(runner: TaskRunner, work: Callable[..., Counters], items: list[Task]) -> tuple[list[Fault], Quiet]:
    task, shown = runner.task(work, 100 << 20), Quiet()

    def submit(item: Task, where: Mapping[str, Any], progress: Any) -> Any:
        return task.options(num_cpus=1, **where).remote(item, runner.rate_limit, progress)

    return runner.run(items, submit, shown, Counters(units=len(items)), Counters()), shown


def tries(item: Task) -> int:
    """How often this task was begun, this time included."""
    with (item.folder / item.name).open("a") as file:
        file.write("x")
        return file.tell()


def test_a_second_copy_of_the_last_task_ends_the_run_and_is_counted_once(runner: TaskRunner, tmp_path: Path) -> None:
    def held_at_first(item: Task, budget: Any, progress: Any) -> Counters:
        progress.started.remote(item.name)
        if tries(item) == 1 and item.name == "held":
            time.sleep(300)
        progress.moved.remote(item.name, Counters(documents=7))
        return Counters(documents=7)

    items = [Task(name, tmp_path) for name in ("held", "one", "two", "three")]
    began = time.monotonic()
    faults, shown = ran(runner, held_at_first, items)
    assert faults == []
    assert time.monotonic() - began < 120
    assert shown.last.retries["second copy"] == 1
    assert (shown.last.counts.documents, shown.last.counts.units) == (28, 4)
    assert (tmp_path / "held").read_text() == "xx"


def test_a_store_that_is_away_for_a_while_is_waited_for(runner: TaskRunner, tmp_path: Path) -> None:
    def away_at_first(item: Task, budget: Any, progress: Any) -> Counters:
        if tries(item) < 3:
            raise StoreUnavailable("s3://there", "503")
        return Counters()

    faults, shown = ran(runner, away_at_first, [Task("a", tmp_path)])
    assert faults == []
    assert shown.last.retries["StoreUnavailable"] >= 2


def test_a_store_that_stays_away_is_given_up_when_the_recipe_says(runner: TaskRunner, tmp_path: Path) -> None:
    def away(item: Task, budget: Any, progress: Any) -> Counters:
        tries(item)
        raise StoreUnavailable("s3://there", "503")

    began = time.monotonic()
    faults, _ = ran(runner, away, [Task("a", tmp_path)])
    assert [fault.error.exit_code for fault in faults] == [4]
    assert 6 <= time.monotonic() - began < 90
    assert len((tmp_path / "a").read_text()) >= 3


def odd(item: Task, budget: Any, progress: Any) -> Counters:
    if item.name == "odd":
        raise {}["missing"]  # type: ignore[misc]
    return Counters(documents=1)


def test_an_error_that_nobody_foresaw_is_one_task_s_and_a_line(runner: TaskRunner, tmp_path: Path) -> None:
    (fault,), shown = ran(runner, odd, [Task("odd", tmp_path), Task("even", tmp_path)])
    assert fault.name == "odd" and fault.error.exit_code == 1
    assert "KeyError: 'missing' (at " in str(fault.error) and "\n" not in str(fault.error)
    assert shown.last.by_source["even"].units == 1


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error", "/data/x"), MemoryError(), ImportError("no module")]
)
def test_what_a_machine_says_names_it_and_ends_as_unfinished(
    error: Exception, runner: TaskRunner, tmp_path: Path
) -> None:
    def broken(item: Task, budget: Any, progress: Any) -> Counters:
        raise error

    caught: BambaError | None = None
    try:
        faults, _ = ran(runner, broken, [Task("a", tmp_path)])
        caught = faults[0].error
    except BambaError as raised:
        caught = raised
    runner.machines._troubles.clear()
    assert caught is not None and caught.exit_code == 4 and caught.of_environment
    assert "on machine " in str(caught) and (not isinstance(error, OSError) or "/data/x: Input/output" in str(caught))


def test_a_local_input_that_is_missing_is_told_at_once_where_there_is_one_machine(
    runner: TaskRunner, tmp_path: Path
) -> None:
    def missing(item: Task, budget: Any, progress: Any) -> Counters:
        tries(item)
        raise SourceUnavailable("/data/x", "no such file")

    faults, _ = ran(runner, missing, [Task("a", tmp_path)])
    assert [type(fault.error) for fault in faults] == [SourceUnavailable]
    assert (tmp_path / "a").read_text() == "x"
    assert MachineFault("m", "", "x").exit_code == 4
