"""One run at a time in a folder; a dead one stands in nobody's way, on a local disk and on S3."""

import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bamba_data.errors import RunHeld
from bamba_data.records import seal
from bamba_data.storage.store import LocalStore, Store, open_store
from tests.forking import Ranks
from tests.running import wait_for
from tests.trainer.job import run
from tests.trainer.running import job, losses, started, wait_for_step
from trainer.checkpoint import lease as leases
from trainer.checkpoint.commits import folders
from trainer.checkpoint.lease import Lease

LOG = logging.getLogger(__name__)

SLOW = {"TRAINER_SLOW": "0.3"}


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('bucket')}/run"


def somebody_else(store: Store, beat: int = 0, number: int = 1) -> None:
    """A holder on another machine, heard of this moment."""
    holder = {"host": "node-7", "process": 4711, "machine": "another", "began": "1", "token": "t"}
    data = seal({"format": leases.FORMAT, "holder": holder, "beat": beat})
    store.put(f"{leases.FOLDER}/{number:06d}.json", data)


def test_a_second_run_in_a_folder_is_refused_by_the_name_of_the_first_which_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 2, "schedule.steps=4000", env=SLOW) as process:
        wait_for_step(out, 5, process)
        second = job(out, 1, "schedule.steps=4000")
        assert second.returncode == 4, second.stderr
        assert "another run is at work here (process " in second.stderr and "or give another --out" in second.stderr
        before = max(losses(out))
        wait_for_step(out, before + 3, process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert any(folder.whole for folder in folders(LocalStore(out / "checkpoints")))
    assert job(out, 1, "schedule.steps=2", "--accept-changes").returncode == 0, "it was given back"


@pytest.mark.s3
def test_a_run_that_was_killed_on_this_machine_goes_on_at_once_also_on_s3(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/run"
    env = {**os.environ, **SLOW, "OMP_NUM_THREADS": "1"}
    process = Ranks(run, [url, "schedule.steps=12"], 1, env, tmp_path / "out", tmp_path / "err")
    store = open_store(f"{url}/checkpoints")
    wait_for(lambda: any(folder.whole for folder in folders(store)), 120, "a checkpoint")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = time.monotonic()
    second = job(url, 1, "schedule.steps=12")
    assert second.returncode == 0, second.stderr
    assert "waiting until it is heard of" not in second.stderr
    assert "goes on after step" in second.stderr
    assert time.monotonic() - before < leases.LIVES_SECONDS + 60


def test_of_many_that_want_a_lease_at_once_one_gets_it(place: str) -> None:
    store = open_store(place)
    held: list[Lease] = []
    refused: list[RunHeld] = []

    def want() -> None:
        try:
            mine = Lease(open_store(place), LOG)
            mine.take()
            held.append(mine)
        except RunHeld as error:
            refused.append(error)

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)
    held[0].release()
    again = Lease(store, LOG)
    again.take()
    again.release()
    assert not list(store.list(leases.FOLDER))


def test_a_holder_elsewhere_is_waited_for_and_refused_to_when_it_is_heard_of_again(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(place)
    somebody_else(store)
    timer = threading.Timer(2.0, somebody_else, (store, 1))
    timer.start()
    with pytest.raises(RunHeld, match="process 4711 on node-7, last heard of"):
        Lease(store, LOG).take()
    timer.join()
    assert "waiting until it is heard of again" in caplog.messages[0]


def test_a_holder_elsewhere_that_is_silent_for_too_long_by_the_stores_clock_is_gone(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LIVES_SECONDS", 3.0)
    store = open_store(place)
    somebody_else(store, number=7)
    before = time.monotonic()
    mine = Lease(store, LOG)
    mine.take()
    assert 1.0 < time.monotonic() - before < 30
    assert [entry.path for entry in store.list(leases.FOLDER)] == [f"{leases.FOLDER}/000008.json"]
    mine.release()


def test_who_was_superseded_finds_out_before_it_commits_and_leaves_the_others_lease_alone(place: str) -> None:
    store = open_store(place)
    mine = Lease(store, LOG)
    mine.take()
    mine.check()
    somebody_else(store, number=2)
    with pytest.raises(RunHeld, match="took over"):
        mine.check()
    mine.release()
    assert f"{leases.FOLDER}/000002.json" in [entry.path for entry in store.list(leases.FOLDER)]


def test_a_lease_that_cannot_be_read_counts_until_it_is_old(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LIVES_SECONDS", 3.0)
    store = open_store(place)
    store.put(f"{leases.FOLDER}/000001.json", b"{torn")
    mine = Lease(store, LOG)
    mine.take()
    mine.release()
