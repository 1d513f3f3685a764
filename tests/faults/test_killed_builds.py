"""Builds on a real Ray, killed for real: worker, driver, everything. The same command ends with the same digest."""

import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.inspect.verify import verify
from pipelines.dataset_build.driver import finish, prepare, run_here
from tests.corpora import recipe, records, write_jsonl, write_parquet
from tests.running import bamba, kill_all, started, verdict, wait_for, workers_of

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over seven files of two units and more, slow enough to be killed: the reference backend."""
    folder = tmp_path_factory.mktemp("killed")
    for n in range(4):
        write_jsonl(folder / "inputs" / f"{n}.json.gz", records(120, n * 120))
    return recipe(
        folder, backend="tokenizers", blocks="{block_tokens: 16384, blocks_per_shard: 3}", extra="unit_bytes: 1"
    )


@pytest.fixture(scope="module")
def quiet(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a build that nobody disturbed, in one process without Ray."""
    from bamba_data.storage.fetch import Fetcher
    from pipelines.cli.options import load_recipe

    loaded, folder = load_recipe(str(inputs), None)
    prepared = prepare(loaded, folder, str(tmp_path_factory.mktemp("quiet")), Fetcher())
    assert run_here(prepared, Fetcher()) == []
    return finish(prepared)[1].digest


def documents(out: Path) -> Counter[str]:
    """Every document of the newest version, as often as it is there."""
    dataset = open_dataset(str(out))
    found: Counter[str] = Counter()
    for url in dataset.shard_urls():
        found.update(pq.read_table(url, columns=["document_id"], partitioning=None)["document_id"].to_pylist())
    return found


def records_in(out: Path) -> int:
    return sum(1 for _ in out.glob("_bamba/units/*/*/part-*.json"))


@pytest.mark.costly
def test_more_workers_than_cores_give_the_same_bytes(inputs: Path, quiet: str, tmp_path: Path) -> None:
    """One and two do so in the tests below, whatever else happens to them."""
    done = bamba("build", inputs, "--out", tmp_path / "out", "--workers", "4")
    assert (done.returncode, verdict(done.stdout)["dataset"]) == (0, quiet), done.stderr


@pytest.mark.costly
def test_workers_that_are_killed_cost_nothing_but_time(inputs: Path, quiet: str, tmp_path: Path) -> None:
    with started("build", inputs, "--out", tmp_path / "out", "--workers", "2", "--interval", "0.5") as process:
        for _ in range(4):
            wait_for(lambda: workers_of(process), what="a worker")[0].kill()
            time.sleep(0.7)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert verdict(output)["dataset"] == quiet
    assert set(documents(tmp_path / "out").values()) == {1}
    assert "WorkerCrashed" in output


@pytest.mark.costly
def test_everything_killed_at_once_the_same_command_goes_on(inputs: Path, quiet: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for kills in range(1, 3):
        with started("build", inputs, "--out", out, "--workers", "2") as process:
            wait_for(lambda k=kills: records_in(out) >= 2 * k, what="a finished part")
            kill_all(process)
    kept = records_in(out)
    done = bamba("build", inputs, "--out", out, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert kept >= 4
    assert verdict(done.stdout)["dataset"] == quiet
    assert documents(out) == Counter({f"doc-{n}": 1 for n in range(480)})


@pytest.mark.costly
def test_told_to_stop_it_stops_soon_with_the_code_for_go_on(inputs: Path, quiet: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (signal.SIGINT, signal.SIGTERM):
        before = records_in(out)
        with started("build", inputs, "--out", out, "--workers", "1") as process:
            wait_for(lambda before=before: records_in(out) > before, what="a finished part")  # type: ignore[misc]
            process.send_signal(number)
            output, _ = process.communicate(timeout=30)
        assert process.returncode == 4, number
        assert "run the same command again" in output
        assert not list((out / "_bamba").glob("versions/*"))
    done = bamba("build", inputs, "--out", out)
    assert (done.returncode, verdict(done.stdout)["dataset"]) == (0, quiet)


@pytest.mark.costly
def test_two_builds_at_once_into_one_place_publish_one_dataset(inputs: Path, quiet: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        started("build", inputs, "--out", out, "--workers", "1") as one,
        started("build", inputs, "--out", out, "--workers", "1") as two,
    ):
        outputs = [process.communicate(timeout=200)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), outputs
    assert {verdict(output)["dataset"] for output in outputs} == {quiet}
    assert [path.name for path in (out / "_bamba" / "versions").iterdir()] == ["000001.json"]
    assert verify(str(out), full=True).faults == []


@pytest.mark.costly
def test_a_mixed_build_of_json_and_parquet_is_the_same_on_ray(tmp_path: Path) -> None:
    from bamba_data.storage.fetch import Fetcher
    from pipelines.cli.options import load_recipe

    write_parquet(tmp_path / "inputs" / "x.parquet", records(30))
    path = recipe(tmp_path, ["*.parquet"], form="parquet")
    loaded, folder = load_recipe(str(path), None)
    here = prepare(loaded, folder, str(tmp_path / "here"), Fetcher())
    run_here(here, Fetcher())
    done = bamba("build", path, "--out", tmp_path / "ray")
    assert verdict(done.stdout)["dataset"] == finish(here)[1].digest, done.stderr
