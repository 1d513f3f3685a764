"""A Ray of a job's own: as few processes as the tasks need, and none of the services of a cluster."""

import subprocess
import sys
import types

import psutil
import pytest

from bamba_data.recipe import Network
from bamba_data.resources import cores
from pipelines.observe.display import Display
from pipelines.observe.prometheus import Exporting, exported
from pipelines.ray_jobs import local_ray
from pipelines.ray_jobs.executor import Options
from pipelines.ray_jobs.local_ray import WORK_SECONDS_A_WORKER, useful_workers
from pipelines.ray_jobs.session import task_runner


@pytest.mark.ray
@pytest.mark.slow
def test_no_service_of_a_cluster_is_started_beside_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import node, utils

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a process reads it once, whichever test comes first
    starters = {name: vars(node.Node)[name] for name in local_ray._STARTERS}
    with task_runner(Options(), Network(), 100 << 20, useful_workers=1) as runner:
        assert ray.get(runner.progress.snapshot.remote()).running == 0
        assert ray.get(runner.rate_limit.reserve.remote("host")) == 0
        assert runner.progress == runner.rate_limit, "one actor, one process"
        assert ray.cluster_resources()["CPU"] == 1
        commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    text = "\n".join(commands)
    assert "raylet" in text and "gcs_server" in text
    for service in ("log_monitor.py", "autoscaler/_private/monitor.py", "dashboard/dashboard.py"):
        assert service not in text
    # A cluster that the same process starts or joins afterwards has all of them.
    assert {name: vars(node.Node)[name] for name in starters} == starters
    assert utils.get_dashboard_dependency_error.__module__ == utils.__name__


def test_a_ray_without_these_starters_starts_in_full() -> None:
    other = types.SimpleNamespace(there=1)
    with local_ray._replaced(other, "gone", print), local_ray._replaced(None, "gone", print):
        assert not hasattr(other, "gone")
    with local_ray._replaced(other, "there", print):
        assert other.there is print
    assert other.there == 1


def test_a_worker_is_started_for_work_that_outweighs_its_start() -> None:
    assert useful_workers(0.1, 6) == 1
    assert useful_workers(WORK_SECONDS_A_WORKER * 1.5, 6) == min(2, cores())
    assert useful_workers(1e6, 6) == min(6, cores())
    assert useful_workers(float("inf"), 1000) == cores(), "what comes over a network is not measured in work"
    assert useful_workers(0.0, 0) == 1


def test_metrics_are_exported_where_somebody_may_ask_for_them() -> None:
    shown = Display()
    assert exported(shown, "demo", "tokenize", None) is shown
    assert isinstance(exported(shown, "demo", "tokenize", "head:6379"), Exporting)


def test_pyarrow_is_spared_pandas_and_nobody_else_is() -> None:
    pytest.importorskip("pandas")
    script = """
import sys
from bamba_data.no_pandas import spare_pandas
spare_pandas()
import pyarrow as pa
table = pa.table({"a": [1, 2]})
assert "pandas" not in sys.modules
import pandas
assert pandas.DataFrame({"a": [1]}).shape == (1, 1)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
