"""A run's numbers arrive in the trackers that its recipe names, also after a restart; none of them can stop a run."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import peers
from tests.trainer.running import command, job, launched, losses


def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_done(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 1, "log.trackers=[wandb]")
    assert done.returncode == 2
    assert done.stderr.endswith("error: log.trackers: wandb is not installed here: pip install wandb\n")
    assert not (tmp_path / "run").exists()


BROKEN = """
class Error(Exception): ...
def init(**kwargs): raise Error("no network")
class Settings:
    def __init__(self, **kwargs): ...
"""


def test_a_tracker_that_fails_is_said_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text(BROKEN)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    # By its command: a fork has looked for packages before, and would not read PYTHONPATH again.
    done = launched(tmp_path / "run", 1, "schedule.steps=3", "log.trackers=[wandb]", env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert "TRACKER wandb: Error: no network; training goes on" in done.stderr
    assert "tracker wandb: 3 points are lost" in done.stderr
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3]


def twice(python: Path, out: Path, name: str, env: Mapping[str, str]) -> None:
    """Three steps, and in a second process three more."""
    changes = [f"log.trackers=[{name}]", "checkpoints.every_steps=3"]
    for steps in (3, 6):
        line = command(out, 1, f"schedule.steps={steps}", *changes, "--accept-changes")
        line = [str(python), *[word for word in line[1:] if word not in ("-W", "error")]]  # their warnings are theirs
        all_env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        done = subprocess.run(line, capture_output=True, text=True, env=all_env, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        assert "TRACKER" not in done.stderr, done.stderr


@pytest.mark.peers
def test_weights_and_biases_gets_every_step_of_one_run(tmp_path: Path) -> None:
    python = peers.environment("wandb", ["wandb==0.31.0"])
    twice(python, tmp_path / "run", "wandb", {"WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    script = """
import glob, json, struct, sys
from wandb.proto.wandb_internal_pb2 import Record

def records(data):
    "LevelDB's log: blocks of 32 KiB, records of a checksum, a length and a kind; the first block begins with a header."
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

found, runs = {}, set()
for file in sorted(glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb")):
    for data in records(open(file, "rb").read()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            runs.add(record.run.run_id)
        if record.WhichOneof("record_type") == "history":
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            if "loss" in row:
                found[row["step"]] = row["loss"]
print(json.dumps([len(runs), found]))
"""
    runs, found = json.loads(peers.run(python, script, tmp_path / "run"))
    assert runs == 1
    assert {int(step): loss for step, loss in found.items()} == losses(tmp_path / "run")


@pytest.mark.peers
def test_mlflow_gets_every_step_of_one_run(tmp_path: Path) -> None:
    python = peers.environment("mlflow", ["mlflow==3.17.2"])
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    twice(python, tmp_path / "run", "mlflow", env)
    script = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
history = client.get_metric_history(run.info.run_id, "loss")
print(json.dumps([run.data.params["model.layers"], [[one.step, one.value] for one in history]]))
"""
    layers, found = json.loads(peers.run(python, script, env["MLFLOW_TRACKING_URI"]).splitlines()[-1])
    assert layers == "3"
    assert dict(found) == losses(tmp_path / "run")


@pytest.mark.peers
def test_aim_keeps_one_run_for_all_restarts(tmp_path: Path) -> None:
    """Its name and number only: values are not read back here, see docs/log.md."""
    python = peers.environment("aim", ["aim==3.29.1"])
    twice(python, tmp_path / "run", "aim", {})
    script = """
import json, sys, aim
print(json.dumps([one.run.name for one in aim.Repo(sys.argv[1]).query_runs("").iter_runs()]))
"""
    (name,) = json.loads(peers.run(python, script, tmp_path / "run").splitlines()[-1])
    assert name.startswith("synthetic ")
