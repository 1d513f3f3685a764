"""A save that fails costs nothing but itself: training goes on, everybody is told, and the next one is of the state of
then. Nothing that fills a disk ends a training; only an end that cannot be saved is an error, with the way out."""

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bamba_data.storage.store import LocalStore
from tests.forking import Ranks
from tests.running import wait_for
from tests.trainer.job import run
from tests.trainer.running import job, lines, newest, ranks_of, started, wait_for_step
from trainer.checkpoint.commits import folders

SLOW = {"TRAINER_SLOW": "0.3"}
LESS_THAN_A_CHECKPOINT = 32 << 10  # bytes a file; one of the small model's is 300 kB


def limit_files(pid: int, most_bytes: int) -> None:
    """As if the disk took no more than that of a file of this running process."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def events(out: Path, kind: str) -> list[dict[str, object]]:
    return [line for line in lines(out) if line.get("event") == kind]


def saved_steps(out: Path) -> list[int]:
    return [folder.step for folder in folders(LocalStore(out / "checkpoints")) if folder.whole]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_save_that_fails_is_told_and_made_good_when_the_disk_takes_it(tmp_path: Path, ranks: int) -> None:
    out = tmp_path / "run"
    with started(out, ranks, "schedule.steps=60", "checkpoints.every_steps=5", env=SLOW) as process:
        wait_for_step(out, 6, process)
        pids = [process.pid] if ranks == 1 else [rank.pid for rank in ranks_of(process)]
        wait_for(lambda: saved_steps(out) == [5], 30, "the first save")
        for pid in pids:
            limit_files(pid, LESS_THAN_A_CHECKPOINT)
        wait_for(lambda: events(out, "save failed"), 60, "the failed save's line")
        told = events(out, "save failed")[0]
        assert told["saved_step"] == 5 and "File too large" in str(told["why"])
        for pid in pids:
            limit_files(pid, resource.RLIM_INFINITY)
        wait_for(lambda: events(out, "saved again"), 60, "a save that ends well")
        again = int(str(events(out, "saved again")[0]["step"]))
        assert again in saved_steps(out)
        (process if ranks == 1 else ranks_of(process)[-1]).send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    said = (tmp_path / "run.log").read_text()
    assert "SAVE FAILED after step 10" in said and "SAVED AGAIN" in said
    commit = newest(LocalStore(out / "checkpoints"))[1]
    assert commit["step"] == max(line["step"] for line in lines(out) if "loss" in line)
    assert not [one for one in folders(LocalStore(out / "checkpoints")) if one.unfinished], "half a save is left"


def test_sigterm_saves_although_the_save_before_has_failed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 1, "schedule.steps=60", "checkpoints.every_steps=20", env=SLOW) as process:
        wait_for_step(out, 1, process)
        limit_files(process.pid, LESS_THAN_A_CHECKPOINT)
        wait_for(lambda: events(out, "save failed"), 60, "the failed save's line")
        limit_files(process.pid, resource.RLIM_INFINITY)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 4
    last = max(line["step"] for line in lines(out) if "loss" in line)
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == last


def test_an_end_that_cannot_be_saved_is_an_error_of_one_line_with_path_size_and_way_out(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = job(out, 1, "schedule.steps=3", env={"TRAINER_FILE_BYTES": str(32 << 10)})
    assert done.returncode == 2, done.stderr  # not 4: to run again as it is cannot help
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"{out}/checkpoints: File too large while a checkpoint was written" in error
    assert "bytes are wanted" in error and "checkpoints.keep_last" in error
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB: six checkpoints of the small model."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """All that is free."""
    ballast = place / "ballast"
    free = shutil.disk_usage(place).free
    ballast.write_bytes(b"x" * free)
    return ballast


def test_a_full_disk_ends_neither_training_nor_metrics_and_room_heals_both(small_disk: Path) -> None:
    out = small_disk / "run"
    log = small_disk.parent / "out.log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", **SLOW}
    process = Ranks(run, [str(out), "schedule.steps=80", "checkpoints.every_steps=5"], 1, env, log, log)
    try:
        wait_for_step(out, 6, process)
        ballast = fill(small_disk)
        wait_for(lambda: "SAVE FAILED" in log.read_text(), 60, "the failed save's line")
        assert "no room for a checkpoint" in log.read_text()
        wait_for(lambda: "METRICS ARE NOT WRITTEN" in log.read_text(), 60, "the word on metrics")
        ballast.unlink()
        wait_for(lambda: events(out, "saved again"), 60, "a save that ends well")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 4
    finally:
        process.kill()
        process.wait()
    steps = [line["step"] for line in lines(out) if "loss" in line]
    assert steps == list(range(1, steps[-1] + 1)), "lines of metrics are lost"
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == steps[-1]


def test_a_disk_that_has_no_room_for_a_checkpoint_is_refused_before_the_first_step(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - (128 << 10)))
    done = job(small_disk / "run", 1)
    assert done.returncode == 2, done.stderr
    assert f"error: {small_disk}/run/checkpoints: no room for a checkpoint: " in done.stderr
    assert not lines(small_disk / "run")


def test_half_a_save_of_a_killed_run_is_removed_when_it_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert job(out, 1, "schedule.steps=4").returncode == 0
    half = out / "checkpoints" / "step-000000008-abcdef"
    half.mkdir()
    (half / "rank-00000.bin.part-0123").write_bytes(b"half")
    done = job(out, 1, "schedule.steps=4")
    assert done.returncode == 0, done.stderr
    assert "removed 1 saves that were killed" in done.stderr
    assert not list(half.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_like_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    with started(out, 1, "checkpoints.every_steps=50", "schedule.steps=50", env=SLOW) as process:
        wait_for_step(out, 2, process)
        process.send_signal(number)
        assert process.wait(timeout=60) == 4
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == max(line["step"] for line in lines(out))


@pytest.mark.costly
def test_ctrl_c_at_a_launcher_saves_on_all_its_ranks(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 2, "checkpoints.every_steps=50", "schedule.steps=50", env=SLOW, by_launcher=True) as process:
        wait_for_step(out, 2, process)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        process.wait(timeout=60)
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == max(line["step"] for line in lines(out))


def test_metrics_are_json_whatever_the_numbers_are_and_one_bad_step_spoils_no_window(tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = ["schedule.steps=6", "log.every_steps=3", "guard.max_bad_steps=3"]
    done = job(out, 1, *changes, env={"TRAINER_NAN": "3"})
    assert done.returncode == 0, done.stderr

    def strict(text: str) -> object:
        raise AssertionError(f"{text} is not JSON")

    text = (out / "metrics.jsonl").read_text()
    found = [json.loads(line, parse_constant=strict) for line in text.splitlines()]
    (bad,) = [line for line in found if line["step"] == 3 and "loss" in line]
    assert bad["grad_norm"] is None and bad["not_finite"] == {"grad_norm": "nan"}
    assert 0 < bad["loss"] < 5


def test_steps_that_are_done_again_after_a_kill_are_marked(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 1, env=SLOW) as process:
        wait_for_step(out, 6, process)
        wait_for(lambda: saved_steps(out) == [4], 30, "the save")
        process.kill()
        process.wait()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # what a kill leaves
    before = max(line["step"] for line in lines(out))
    done = job(out, 1)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in lines(out) if line.get("redone")] == list(range(5, before + 1))
    assert [line["step"] for line in lines(out) if "loss" in line and not line.get("redone")] == list(range(1, 13))
