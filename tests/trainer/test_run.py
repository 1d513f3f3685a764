"""A run learns the same on any number of ranks, and what stops it costs nothing but time."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from bamba_data.storage.store import LocalStore
from tests.running import wait_for
from tests.trainer.running import (
    job,
    kill_all,
    launched,
    ledger,
    lines,
    losses,
    newest,
    ranks_of,
    started,
    wait_for_step,
)
from trainer.checkpoint.dcp_storage import sealed

SLOW = {"TRAINER_SLOW": "0.3"}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of one process."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    done = job(out, 1)
    assert done.returncode == 0, done.stderr
    return out


def same(out: Path, quiet: Path) -> None:
    """All steps of both runs saw the same tokens and learned the same."""
    assert ledger(out) == ledger(quiet)
    assert losses(out).keys() == losses(quiet).keys()
    for step, loss in losses(quiet).items():
        assert losses(out)[step] == pytest.approx(loss, rel=1e-4), step


def test_the_loss_falls(quiet: Path) -> None:
    assert losses(quiet)[12] < 0.5 * losses(quiet)[1]


def test_ranks_that_do_not_divide_the_rows_see_the_same_tokens_and_learn_the_same(quiet: Path, tmp_path: Path) -> None:
    """Of 6 rows a step, 4 ranks get 2, 2, 1, 1, filled up with padding."""
    done = job(tmp_path / "run", 4)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "run", quiet)


@pytest.mark.costly
def test_copies_of_the_model_in_groups_of_ranks_learn_the_same_and_share_their_checkpoints(
    quiet: Path, tmp_path: Path
) -> None:
    """Two groups of two ranks, then four of one, then three ranks together."""
    out = tmp_path / "run"
    for shard_ranks, until in ((2, 6), (1, 10)):
        with started(out, 4, f"compute.shard_ranks={shard_ranks}", "compute.micro_rows=1", env=SLOW) as process:
            wait_for_step(out, until, process)
            kill_all(process)
    name, commit = newest(LocalStore(out / "checkpoints"))
    assert commit["step"] == 8
    index = json.loads((out / "checkpoints" / name / "index.json").read_text())
    assert all(len(entry["pieces"]) == 1 for entry in index.values()), "a copy was written too"
    done = job(out, 3)
    assert done.returncode == 0, done.stderr
    same(out, quiet)


def test_groups_that_do_not_divide_the_ranks_are_refused(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 2, "compute.shard_ranks=3")
    assert "compute.shard_ranks: 2 ranks are no whole number of groups of 3" in done.stderr


def test_a_run_killed_on_four_ranks_goes_on_on_one_and_ends_on_three(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 4, env=SLOW) as process:
        wait_for_step(out, 6, process)
        kill_all(process)
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == 4
    with started(out, 1, env=SLOW) as process:
        wait_for_step(out, 10, process)
        kill_all(process)
    done = job(out, 3)
    assert done.returncode == 0, done.stderr
    assert "goes on after step 8 (saved by 1 ranks, now 3)" in done.stderr
    resumed = [(line["step"], line["world_size"]) for line in lines(out) if line.get("event") == "resumed"]
    assert resumed == [(4, 1), (8, 3)]
    same(out, quiet)


def test_sigterm_to_one_rank_saves_on_all_and_the_exit_code_says_run_again(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 2, by_launcher=True, env=SLOW) as process:
        wait_for_step(out, 5, process)
        ranks_of(process)[-1].send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        said = (tmp_path / "run.log").read_text()
    assert "saved; the same command goes on from there" in said
    assert "exitcode  : 4" in said
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] >= 6
    done = job(out, 1)
    assert done.returncode == 0, done.stderr
    same(out, quiet)


def test_sigterm_before_the_first_step_ends_it_at_once_and_with_the_code_that_says_run_again(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with started(tmp_path / "run", 1, env={"TRAINER_START": "200"}) as process:
        wait_for(lambda: "begins at step 0" in log.read_text(), 120, "the run's begin")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 4
    assert "stopped before the first step" in log.read_text()


@pytest.mark.parametrize("saves_every", [4, 1])
def test_sigterm_to_a_run_of_one_process_ends_it_saved_and_with_the_code_that_says_run_again(
    tmp_path: Path, saves_every: int
) -> None:
    """Also where every step reads its own outcome, because a save follows."""
    out = tmp_path / "run"
    with started(out, 1, f"checkpoints.every_steps={saves_every}", env=SLOW) as process:
        wait_for_step(out, 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 4
    assert newest(LocalStore(out / "checkpoints"))[1]["step"] == max(losses(out))


@pytest.mark.long
@pytest.mark.parametrize("point", range(0, 24, 3))
def test_a_run_of_two_ranks_whose_second_is_killed_while_it_saves_loses_nothing(
    quiet: Path, tmp_path: Path, point: int
) -> None:
    """A rank has 8 points a save (its file: written, renamed, its folder), and there are 3 saves."""
    out = tmp_path / "run"
    assert job(out, 2, env={"TRAINER_KILL": str(point)}).returncode != 0
    done = job(out, 2)
    assert done.returncode == 0, done.stderr
    same(out, quiet)


@pytest.mark.long
def test_a_launcher_that_may_restart_goes_on_by_itself_when_a_rank_dies(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 2, by_launcher=True, env=SLOW, restarts=1) as process:
        wait_for_step(out, 6, process)
        ranks_of(process)[-1].kill()
        assert process.wait(timeout=240) == 0
    assert [line["step"] for line in lines(out) if line.get("event") == "resumed"] == [4]
    same(out, quiet)


def test_a_rank_that_dies_ends_the_whole_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(out, 2, by_launcher=True, env=SLOW) as process:
        wait_for_step(out, 2, process)
        ranks_of(process)[-1].kill()
        assert process.wait(timeout=60) != 0
        assert "-9" in (tmp_path / "run.log").read_text()


def test_a_rank_that_meets_damaged_data_ends_the_whole_run_with_its_cause(tmp_path: Path) -> None:
    done = launched(tmp_path / "run", 2, env={"TRAINER_FAULT": "3"})
    assert done.returncode != 0
    assert "error: shard-00007.parquet: block 3 is not what the manifest says" in done.stderr
    assert "exitcode  : 5" in done.stderr
    assert 3 not in losses(tmp_path / "run")


def test_a_rank_that_holds_the_others_up_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = job(out, 2, "schedule.steps=6", env={"TRAINER_LATE": "0.4"})
    assert done.returncode == 0, done.stderr
    said = [line["what"] for line in lines(out) if line.get("event") == "slow rank"]
    assert any(what.startswith("rank 1 is slow: it waits") for what in said)


def test_a_step_without_a_finite_gradient_changes_nothing_and_is_counted(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = job(out, 2, env={"TRAINER_NAN": "5"})
    assert done.returncode == 0, done.stderr
    (bad,) = [line for line in lines(out) if line.get("event") == "bad step"]
    assert (bad["step"], bad["rows"]) == (5, "rows 24 to 29 of the order")
    assert newest(LocalStore(out / "checkpoints"))[1]["bad_steps"] == 1
    found = losses(out)
    assert found[4] == pytest.approx(losses(quiet)[4], rel=1e-4)
    assert found[6] == pytest.approx(losses(quiet)[5], rel=0.2)  # of the weights that step 5 should have changed
    assert found[12] < 0.6 * found[1]


def test_too_many_bad_steps_end_the_run_and_name_the_rows(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 1, "guard.max_bad_steps=0", env={"TRAINER_NAN": "5"})
    assert done.returncode == 3
    assert "step 5" in done.stderr and "rows 24 to 29 of the order" in done.stderr
    assert [line["rows"] for line in lines(tmp_path / "run") if "rows" in line] == ["rows 24 to 29 of the order"]


def test_ranks_with_different_recipes_refuse_to_start(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 2, env={"TRAINER_SEED": "5"})
    assert done.returncode != 0
    assert "rank 1 differs from rank 0: recipe.seed is 5, on rank 0 1." in done.stderr
    assert not lines(tmp_path / "run")


def test_ranks_at_different_places_in_the_data_refuse_to_start(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 2, env={"TRAINER_PLACE": "3"})
    assert done.returncode != 0
    assert "rank 1 differs from rank 0: data.steps is 3, on rank 0 0." in done.stderr
    assert not lines(tmp_path / "run")


def test_another_recipe_in_the_same_folder_is_refused_by_name_unless_accepted(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert job(out, 1, "schedule.steps=4").returncode == 0
    refused = job(out, 1, "schedule.steps=8", "log.every_steps=2")
    assert refused.returncode == 2
    assert "of another recipe (schedule.steps was 4, is 8)." in refused.stderr
    assert job(out, 1, "schedule.steps=8", "--accept-changes").returncode == 0
    assert newest(LocalStore(out / "checkpoints"))[1]["changes"] == ["after step 4: schedule.steps was 4, is 8"]


def test_a_new_run_can_begin_with_the_model_of_another(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = job(out, 2, f"start_from={quiet}", "schedule.steps=2", "schedule.peak_lr=1.0e-3")
    assert done.returncode == 0, done.stderr
    assert "begins with the model of step 12" in done.stderr
    assert losses(out)[1] < losses(quiet)[10]
    assert ledger(out)[1] == ledger(quiet)[1]


def test_a_loss_spike_goes_back_leaves_its_rows_out_and_the_run_ends_calm(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rules = ["schedule.steps=24", "guard.spike_sigmas=12.0", "guard.spike_window=8", "guard.spike_steps=2"]
    done = job(out, 2, *rules, "schedule.peak_lr=1.0e-4", "schedule.end_lr=1.0e-4", env={"TRAINER_SPIKE": "14"})
    assert done.returncode == 0, done.stderr
    (rewind,) = [line for line in lines(out) if line.get("event") == "rewind"]
    # Batches 14 and 15 hold other rows than all before: those of steps 14 and 15 are left out, and the run went back
    # to the checkpoint after step 12.
    assert (rewind["to"], rewind["rows"]) == (12, [13 * 6, 15 * 6 - 1])
    _, commit = newest(LocalStore(out / "checkpoints"))
    assert commit["step"] == 24 and commit["rewinds"] == 1
    assert commit["feed"]["skipped"] == [13 * 6, 14 * 6]
    found = losses(out)
    assert all(found[step] < found[1] + 0.5 for step in range(13, 25))


def test_a_second_spike_after_the_same_checkpoint_leaves_out_the_rows_of_both(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rules = ["schedule.steps=36", "guard.spike_sigmas=12.0", "guard.spike_window=8", "guard.spike_steps=2"]
    rate = ["schedule.peak_lr=1.0e-4", "schedule.end_lr=1.0e-4", "checkpoints.every_steps=12"]
    done = job(out, 1, *rules, *rate, env={"TRAINER_SPIKE": "14,24"})
    assert done.returncode == 0, done.stderr
    found = [(line["to"], line["rows"]) for line in lines(out) if line.get("event") == "rewind"]
    assert found == [(12, [13 * 6, 15 * 6 - 1]), (12, [23 * 6, 25 * 6 - 1])]
    _, commit = newest(LocalStore(out / "checkpoints"))
    assert commit["step"] == 36 and commit["rewinds"] == 2
    assert commit["feed"]["skipped"] == [13 * 6, 14 * 6, 23 * 6, 24 * 6]


def test_a_recipe_that_was_saved_before_a_field_was_there_is_the_same_recipe(quiet: Path, tmp_path: Path) -> None:
    """As if packing had come after the checkpoint."""
    out = tmp_path / "run"
    shutil.copytree(quiet, out)
    store = LocalStore(out / "checkpoints")
    name, commit = newest(store)
    commit["recipe"]["data"].pop("packing")
    store.put(f"{name}/commit.json", sealed(commit))
    done = job(out, 1)
    assert done.returncode == 0, done.stderr
    assert "goes on after step 12" in done.stderr


def test_the_steps_that_a_recipe_names_are_traced_into_a_file(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = job(out, 1, "schedule.steps=4", "log.profile_from=2", "log.profile_steps=2")
    assert done.returncode == 0, done.stderr
    trace = json.loads((out / "profile-step-2.json").read_text())
    assert any("bamba" in event.get("name", "") for event in trace["traceEvents"])


def test_held_out_loss_is_in_the_metrics_and_changes_nothing(quiet: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = job(out, 2, "log.evaluate_every_steps=6")
    assert done.returncode == 0, done.stderr
    found = [line for line in lines(out) if line.get("event") == "held out"]
    assert [line["step"] for line in found] == [6, 12]
    assert 0 < found[1]["held_out/up"] < found[0]["held_out/up"]
    same(out, quiet)
