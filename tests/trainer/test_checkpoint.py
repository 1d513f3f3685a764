"""A checkpoint is whole or is not there; a torn one is found, said, and passed over; none is taken on trust."""

import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bamba_data.errors import CorruptCheckpoint, UserError
from bamba_data.storage.store import LocalStore
from tests.forking import typed
from tests.trainer.running import GOLDEN, bits, command, job, newest_folder
from trainer.checkpoint.commits import folders, sweep
from trainer.checkpoint.locate import locate_checkpoint
from trainer.checkpoint.manager import Checkpointer
from trainer.checkpoint.marks import Mark, read_mark, set_mark
from trainer.checkpoint.verify import faults
from trainer.checkpoint.writers import written_by
from trainer.config import Checkpoints
from trainer.distributed.fsdp import World

SHORT = ["schedule.steps=4", "checkpoints.every_steps=2", "data.batch_rows=2"]


def run(out: str | Path, *changes: str) -> "subprocess.CompletedProcess[str]":
    return job(out, 1, *SHORT, *changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after steps 2 and 4."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out


def copied(whole: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", str(whole), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 8)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink], ids=["cut short", "one bit flipped", "missing"])
@pytest.mark.parametrize("file", ["rank-00000.bin", "index.json", "commit.json"])
def test_a_torn_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    whole: Path, tmp_path: Path, file: str, harm: Callable[[Path], None]
) -> None:
    out = copied(whole, tmp_path)
    torn = newest_folder(out)
    harm(torn / file)
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert "goes on after step 2" in done.stderr
    if not (file == "commit.json" and harm is Path.unlink):  # without its commit it is no checkpoint: nothing to say
        assert f"CHECKPOINT TORN: {torn}" in done.stderr
    assert bits(out) == bits(whole)


def test_a_run_whose_checkpoints_are_all_torn_does_not_start_over(whole: Path, tmp_path: Path) -> None:
    out = copied(whole, tmp_path)
    for file in out.glob("checkpoints/*/rank-00000.bin"):
        flip(file)
    for _ in range(2):  # the second time all are marked already
        done = run(out)
        assert done.returncode == 5
        assert "none of its 2 checkpoints is whole" in done.stderr


@pytest.mark.costly
def test_a_launcher_that_restarts_does_not_start_over_what_is_all_torn(whole: Path, tmp_path: Path) -> None:
    out = copied(whole, tmp_path)
    for file in out.glob("checkpoints/*/rank-00000.bin"):
        flip(file)
    torchrun = command(out, 2, *SHORT, restarts=2)
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert "begins at step 0" not in done.stderr


@pytest.mark.parametrize("layers", [2, 9])
def test_another_shape_is_refused_whatever_is_accepted_and_says_nothing_against_the_checkpoints(
    whole: Path, tmp_path: Path, layers: int
) -> None:
    out = copied(whole, tmp_path)
    refused = run(out, f"model.layers={layers}", "--accept-changes")
    assert refused.returncode == 2
    assert f"is of another model: model.layers was 3, is {layers}. A model's shape is no change" in refused.stderr
    assert [folder.marked for folder in folders(LocalStore(out / "checkpoints"))] == [False, False]
    assert "goes on after step 4" in run(out).stderr


def test_a_model_of_another_shape_is_no_start_for_a_new_one(whole: Path, tmp_path: Path) -> None:
    """Fewer layers here than there would be a part of the model, in silence."""
    done = run(tmp_path / "new", f"start_from={whole}", "model.layers=2")
    assert done.returncode == 2
    assert "is of another model: it holds model.blocks.2." in done.stderr


def test_a_mark_is_listed_verified_and_lifted_only_where_the_bytes_are_whole(whole: Path, tmp_path: Path) -> None:
    out = copied(whole, tmp_path)
    name = newest_folder(out).name
    flip(newest_folder(out) / "rank-00000.bin")
    assert "goes on after step 2" in run(out, "schedule.steps=2", "--accept-changes").stderr
    listed = checkpoints(out)
    assert listed.returncode == 0
    assert re.search(rf"^{name}  step 4 .*damaged: .* are not what was saved$", listed.stdout, re.MULTILINE)
    assert checkpoints(out, "--verify").returncode == 5
    refused = checkpoints(out, "--lift", name)
    assert refused.returncode == 5 and "its mark stays" in refused.stderr
    flip(out / "checkpoints" / name / "rank-00000.bin")  # and back
    assert checkpoints(out, "--lift", name).returncode == 0
    verified = checkpoints(out, "--verify", "--json")
    assert verified.returncode == 0
    states = [json.loads(line) for line in verified.stdout.splitlines()]
    assert [(one["step"], one["mark"], one["faults"]) for one in states] == [(4, None, []), (2, None, [])]
    assert "goes on after step 4" in run(out).stderr


def checkpoints(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return typed("trainer.checkpoints", out, *options)


def test_a_run_killed_at_any_point_of_its_storage_ends_with_the_bits_of_a_quiet_one(tmp_path: Path) -> None:
    assert sweep_points(tmp_path, step=13) > 150


@pytest.mark.long
def test_a_run_killed_at_every_point_of_its_storage_ends_with_the_bits_of_a_quiet_one(tmp_path: Path) -> None:
    assert sweep_points(tmp_path, step=1) > 150


@pytest.mark.s3
@pytest.mark.long
def test_a_run_killed_at_every_request_to_s3_ends_with_the_bits_of_a_quiet_one(bucket: str) -> None:
    assert sweep_points(bucket, step=1) >= 2 * (3 * 3 + 2 * 3)  # 3 saves of 3 objects, 2 of them removed


def sweep_points(url: Path | str, step: int) -> int:
    """Whatever the point, the run ends the same; how many points there are: on a disk 48 of them at blocks that go past
    the cache."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.crash_points", str(url), str(step)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tried"] >= found["points"] // step
    assert found["differs"] == {}
    return int(found["points"])


def test_a_disk_that_takes_no_more_ends_the_run_in_one_line_and_leaves_the_checkpoints_it_has(
    whole: Path, tmp_path: Path
) -> None:
    out = copied(whole, tmp_path)
    before = bits(out)
    less = {"TRAINER_FILE_BYTES": str(64 << 10)}  # than a checkpoint has
    done = job(out, 1, *SHORT, "schedule.steps=6", "--accept-changes", env=less)
    assert done.returncode == 2  # to run again as it is cannot help: somebody must make room
    assert re.search(r"^error: .*File too large", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert bits(out) == before


def test_old_checkpoints_go_and_those_of_chosen_steps_stay(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def add(step: int, *files: str) -> None:
        for file in files:
            store.put(f"step-{step:09d}-00{step:04d}/{file}", b"")

    for step in (10, 20, 30, 40, 50):
        add(step, "rank-00000.bin", "index.json", "commit.json")
    add(35, "rank-00000.bin")  # killed, long ago
    add(55, "rank-00000.bin")  # on its way, or killed: nobody knows
    add(45, "rank-00000.bin", "index.json", "commit.json", "torn.json")
    sweep(store, keep_last=2, keep_every_steps=20)
    left = [(folder.step, folder.committed, folder.marked) for folder in folders(store)]
    assert left == [(55, False, False), (50, True, False), (45, True, True), (40, True, False), (20, True, False)]


def test_a_folder_that_holds_no_checkpoint_is_refused_as_a_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run with a committed checkpoint nor a checkpoint"):
        locate_checkpoint(str(tmp_path))


def test_a_piece_that_was_changed_is_never_returned(whole: Path, tmp_path: Path) -> None:
    out = copied(whole, tmp_path)
    flip(newest_folder(out) / "rank-00000.bin")
    with pytest.raises(CorruptCheckpoint, match="are not what was saved"):
        bits(out)


def test_one_bit_flipped_anywhere_in_a_checkpoint_is_found(whole: Path, tmp_path: Path) -> None:
    """In checkpoints of this format and of the first one."""
    draw = random.Random(5)
    for number, folder in enumerate([newest_folder(whole), next((GOLDEN / "run" / "checkpoints").iterdir())]):
        name = "step-000000004-ab"
        shutil.copytree(folder, tmp_path / str(number) / name)
        store = LocalStore(tmp_path / str(number))
        assert list(faults(store, name)) == []
        for file in ("commit.json", "index.json", "rank-00000.bin"):
            data = store.read(f"{name}/{file}")
            for _ in range(60):
                changed = bytearray(data)
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
                store.put(f"{name}/{file}", bytes(changed))
                assert list(faults(store, name)), f"{file} of {folder}"
            store.put(f"{name}/{file}", data)


def test_a_mark_that_is_damaged_is_a_mark_still(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    set_mark(store, "step-000000004-ab", Mark("damaged", "bytes 0 to 8"))
    assert read_mark(store, "step-000000004-ab") == Mark("damaged", "bytes 0 to 8")
    flip(tmp_path / "step-000000004-ab" / "torn.json")
    assert folders(store)[0].marked
    damaged = read_mark(store, "step-000000004-ab")
    assert damaged is not None and damaged.kind == "unknown"
    store.put("step-000000004-ab/torn.json", b'{"why":"as marks were"}\n')
    assert read_mark(store, "step-000000004-ab") == Mark("damaged", "as marks were")


def test_a_way_back_that_is_torn_is_an_error_not_a_run_with_half_of_its_weights(tmp_path: Path, world: World) -> None:
    state = {"model.a": torch.zeros(1000), "model.b": torch.zeros(1000)}
    checkpointer = Checkpointer(LocalStore(tmp_path), Checkpoints(), world, logging.getLogger(__name__))
    checkpointer.take()
    checkpointer.save(4, state, {})
    assert checkpointer.finish() is None
    for value in state.values():
        value.fill_(8.0)
    assert checkpointer.go_back_before(2, "a spike", state) is None, "there is none so early"
    assert all((value == 8).all() for value in state.values())
    assert checkpointer.go_back_before(6, "a spike", state) is not None
    assert all((value == 0).all() for value in state.values())
    flip(next(tmp_path.glob("step-*/rank-00000.bin")))
    with pytest.raises(CorruptCheckpoint, match="none of its 1 checkpoints before a spike is whole"):
        checkpointer.go_back_before(6, "a spike", state)
    checkpointer.close()


def test_what_every_rank_holds_is_kept_and_written_by_one_of_them() -> None:
    state = {f"matrix {number}": torch.empty(64 + number, 8) for number in range(40)} | {"count": torch.zeros(())}
    written = [written_by(rank, 4, state) for rank in range(4)]
    assert sorted(name for names in written for name in names) == sorted(state)
    sizes = [sum(state[name].nbytes for name in names) for names in written]
    assert max(sizes) < 1.05 * min(sizes), "one rank would hold the others up"


@pytest.mark.s3
def test_checkpoints_on_s3_are_saved_and_resumed_with_the_same_bits(whole: Path, bucket: str) -> None:
    assert run(f"{bucket}/run").returncode == 0
    assert bits(f"{bucket}/run") == bits(whole)
    again = run(f"{bucket}/run")
    assert again.returncode == 0
    assert "goes on after step 4" in again.stderr
