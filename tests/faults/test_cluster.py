"""Builds on real clusters of several nodes that are taken apart while they work. The dataset is that of a quiet run.

Nodes are process groups, or live in a network namespace of their own; a lost one goes with all its processes at once.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import LocalStore
from pipelines.cli.options import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here
from pipelines.observe import runs
from tests.clusters import SOON_LOST, RayCluster, kill_node, processes_of, ray_cluster
from tests.corpora import recipe, records, write_jsonl
from tests.running import COMMAND, kill_all, wait_for
from tests.servers.gate import GatedFiles

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
FILES, DOCUMENTS, CHARS = 8, 120, 8000
NAMES = [f"{n}.jsonl" for n in range(FILES)]
SOON = 300.0  # seconds, on a machine that is busy with other things


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of four units, each of two files of 0.8 MB and of eight shards, slow enough to be hit: the reference
    backend."""
    folder = tmp_path_factory.mktemp("cluster")
    for n, name in enumerate(NAMES):
        write_jsonl(folder / "inputs" / name, records(DOCUMENTS, n * DOCUMENTS, CHARS))
    blocks = "{block_tokens: 16384, blocks_per_shard: 3}"
    return recipe(folder, NAMES, backend="tokenizers", blocks=blocks, extra="unit_bytes: 1800000")


@pytest.fixture(scope="module")
def quiet(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a build that nobody disturbed, in one process without Ray."""
    loaded, folder = load_recipe(str(inputs), None)
    prepared = prepare(loaded, folder, str(tmp_path_factory.mktemp("quiet")), Fetcher())
    assert run_here(prepared, Fetcher()) == []
    return finish(prepared)[1].digest


@dataclass
class Driver:
    """A build whose driver has joined a cluster from outside."""

    process: subprocess.Popen[bytes]
    log: Path

    def ended_well(self, within_seconds: float = SOON) -> None:
        assert self.process.wait(within_seconds) == 0, self.log.read_text()


@contextlib.contextmanager
def building(cluster: RayCluster, inputs: Path, out: Path) -> Iterator[Driver]:
    log = out.with_suffix(".log")
    command = [*COMMAND, "build", str(inputs), "--out", str(out), "--address", cluster.gcs, "--interval", "1"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=cluster.env, stdout=file, stderr=file, start_new_session=True)
    try:
        yield Driver(process, log)
    finally:
        kill_all(process)  # type: ignore[arg-type]


def parts(out: Path) -> set[Path]:
    return set(out.glob("_bamba/units/*/*/part-*.json"))


def is_the_quiet_one(out: Path, quiet: str) -> None:
    """Nothing lost, nothing twice, and no byte other than in a quiet run."""
    assert open_dataset(str(out)).manifest.digest == quiet
    found = verify(str(out), full=True)
    assert found.faults == []
    assert found.documents == FILES * DOCUMENTS


@pytest.mark.costly
def test_a_node_that_is_lost_and_one_that_joins_change_no_byte(inputs: Path, quiet: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ray_cluster(tmp_path, cpus=0, extra_env=SOON_LOST) as cluster:
        first, _ = cluster.add_node(), cluster.add_node()
        with building(cluster, inputs, out) as driver:
            wait_for(lambda: len(parts(out)) >= 2, seconds=SOON, what="two finished parts")
            kill_node(first)
            cluster.add_node()
            driver.ended_well()
    is_the_quiet_one(out, quiet)


@pytest.mark.costly
def test_workers_killed_over_and_over_end_in_the_same_bytes(inputs: Path, quiet: str, tmp_path: Path) -> None:
    """One dies after every two shards that were finished, whatever it is doing then. What was finished is not done
    again: a kill costs at most the shard in work."""
    out, kills = tmp_path / "out", 0
    written: dict[Path, int] = {}
    with ray_cluster(tmp_path, cpus=2) as cluster, building(cluster, inputs, out) as driver:
        before = 0
        while driver.process.poll() is None:
            workers = processes_of(cluster.nodes[0], "ray::run_unit")
            written = {path: path.stat().st_mtime_ns for path in parts(out)} | written
            if workers and len(parts(out)) >= before + 2:
                workers[0].kill()
                kills, before = kills + 1, len(parts(out))
            time.sleep(0.05)
        driver.ended_well()
    assert kills >= 3
    status = next(runs.attempts(LocalStore(out)))
    crashes = sum(count for cause, count in status.retries.items() if "Crash" in cause or "Died" in cause)
    assert kills - 2 <= crashes <= kills  # one that dies as its task ends crashes nothing
    assert {path: path.stat().st_mtime_ns for path in written} == written
    is_the_quiet_one(out, quiet)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="power-cut", marks=pytest.mark.costly),
        pytest.param(signal.SIGTERM, id="eviction", marks=pytest.mark.costly),
    ],
)
def test_the_head_with_its_driver_is_lost_and_the_retry_s_new_cluster_goes_on(
    number: signal.Signals, inputs: Path, quiet: str, tmp_path: Path
) -> None:
    """What KubeRay does: a new cluster for every retry, with the same entrypoint. The second file of two units
    does not come at first, so that the first cluster cannot end the build, however quick it is."""
    out = tmp_path / "out"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with GatedFiles(inputs.parent / "inputs", held={NAMES[3], NAMES[5]}, open_bytes=1000) as files:
        submit = [*COMMAND, "submit", str(inputs), "--out", str(out), "--set", f"corpora.0.base={files.url}"]
        with ray_cluster(tmp_path / "one", cpus=3) as cluster:
            subprocess.run([*submit, "--cluster", cluster.url, "--no-wait"], env=cluster.env, check=True)
            wait_for(lambda: (len(finished(out)), len(halves(out))) == (2, 2), SOON, "two units and two halves")
            if number == signal.SIGTERM:
                cluster.nodes[0].terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    cluster.nodes[0].wait(8)  # a pod's grace, shortened: Ray's head does not end in 30 seconds either
            kill_node(cluster.nodes[0])
        assert not list(out.glob("_bamba/versions/*"))
        kept = {path: path.stat().st_mtime_ns for path in parts(out) | finished(out)}
        files.open()
        with ray_cluster(tmp_path / "two", cpus=2) as cluster:
            retry = subprocess.run(
                [*submit, "--cluster", cluster.url], env=cluster.env, capture_output=True, text=True, timeout=SOON
            )
    assert retry.returncode == 0, retry.stdout + retry.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # what was finished is not done again
    assert [status.state for status in runs.attempts(LocalStore(out))][-1] == "complete"
    dataset = open_dataset(str(out))
    assert dataset.manifest.totals.kept == FILES * DOCUMENTS
    assert {row["sha256"] for row in dataset.shards.iter_rows(named=True)} == shards_of(quiet, inputs)


def finished(out: Path) -> set[Path]:
    return set(out.glob("_bamba/units/*/*/unit.json"))


def halves(out: Path) -> set[Path]:
    """The units with parts, but without an end."""
    return {part.parent for part in parts(out)} - {unit.parent for unit in finished(out)}


def shards_of(quiet: str, inputs: Path) -> set[str]:
    """The sha256s of the quiet run's shards: the manifest of a submitted run names another base than `inputs`."""
    store = next(path for path in inputs.parent.parent.glob("quiet*") if list(path.glob("_bamba/versions/*")))
    dataset = open_dataset(str(store))
    assert dataset.manifest.digest == quiet
    return set(dataset.shards["sha256"])


# ---- a link that is cut


def _can_make_networks() -> bool:
    return os.geteuid() == 0 and bool(shutil.which("ip"))


@pytest.fixture
def link() -> Iterator[str]:
    """A network namespace with one wire to this machine, 10.222.7.1 here and 10.222.7.2 there."""
    name = f"bamba{os.getpid()}"
    lines = [
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b",
        f"link set {name}b netns {name}",
        f"addr add 10.222.7.1/24 dev {name}a",
        f"link set {name}a up",
        f"-n {name} addr add 10.222.7.2/24 dev {name}b",
        f"-n {name} link set {name}b up",
        f"-n {name} link set lo up",
    ]
    try:
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.long
@pytest.mark.skipif(not _can_make_networks(), reason="needs root and iproute2")
def test_a_node_behind_a_cut_link_is_given_up_and_what_it_still_writes_harms_nothing(
    link: str, inputs: Path, quiet: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with ray_cluster(tmp_path, cpus=0, extra_env=SOON_LOST, ip="10.222.7.1") as cluster:
        far = cluster.add_node(inside=["ip", "netns", "exec", link], ip="10.222.7.2")
        with building(cluster, inputs, out) as driver:
            wait_for(lambda: parts(out), seconds=SOON, what="a part of the far node")
            subprocess.run(["ip", "link", "set", f"{link}a", "down"], check=True)
            assert processes_of(far, "ray::run_unit"), "the far node works on, unheard"
            subprocess.run(["ip", "addr", "add", "10.222.7.1/32", "dev", "lo"], check=True)
            try:
                cluster.add_node()
                driver.ended_well()
            finally:
                subprocess.run(["ip", "addr", "del", "10.222.7.1/32", "dev", "lo"], check=False)
    is_the_quiet_one(out, quiet)
