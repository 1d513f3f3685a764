"""Runs whose rows are shared by ranks: the same steps, ledgers and checkpoints as one rank's, by the real commands."""

import json
import shutil
from pathlib import Path

import pytest

from bamba_data.errors import RecipeError, UserError
from tests.forking import typed
from tests.trainer.running import job, ledger, lines, losses
from trainer.config import load_recipe
from trainer.context.group import check_ranks

SHARED = "compute.context_ranks=2"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of one process."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    done = job(out, 1, "log.evaluate_every_steps=12")
    assert done.returncode == 0, done.stderr
    return out


def same(out: Path, quiet: Path) -> None:
    """All steps of both runs saw the same tokens and learned the same."""
    assert ledger(out) == ledger(quiet)
    assert losses(out) == pytest.approx(losses(quiet), rel=1e-4)


@pytest.mark.parametrize(("ranks", "changes"), [(2, [SHARED]), (4, [SHARED, "compute.shard_ranks=2"])])
def test_ranks_that_share_rows_see_the_same_tokens_and_learn_the_same(
    quiet: Path, tmp_path: Path, ranks: int, changes: list[str]
) -> None:
    """Four ranks: two of data, of two parts each; then each part's weights lie on one group."""
    done = job(tmp_path / "run", ranks, *changes, "log.evaluate_every_steps=12")
    assert done.returncode == 0, done.stderr
    same(tmp_path / "run", quiet)
    if ranks > 2:  # this feed holds out other rows for another number of data ranks
        return
    ours, wanted = (next(line for line in lines(out) if "held_out/up" in line) for out in (tmp_path / "run", quiet))
    assert ours.pop("event") == wanted.pop("event") == "held out"
    assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.costly
def test_checkpoints_load_under_any_mix_of_data_and_context_ranks(tmp_path: Path) -> None:
    """2 x 2, then 3 parts of one, then 2 of data, then one rank alone: each goes on where the last one ended."""
    out, constant = tmp_path / "run", ["schedule.decay=none", "schedule.warmup_steps=0"]
    for number, (ranks, shared) in enumerate(((4, 2), (3, 3), (2, 1), (1, 1)), 1):
        steps = [f"schedule.steps={3 * number}", "--accept-changes"] if number < 4 else ["--accept-changes"]
        done = job(out, ranks, f"compute.context_ranks={shared}", *constant, *steps)
        assert done.returncode == 0, done.stderr
    whole = job(tmp_path / "whole", 1, *constant)
    assert whole.returncode == 0, whole.stderr
    same(out, tmp_path / "whole")


def test_half_the_memory_and_whole_copies_of_the_model_learn_from_parts_too(tmp_path: Path) -> None:
    """In bfloat16 with rounding at random: the same tokens, nearly the same losses."""
    half = ["compute.dtype=bfloat16", "optimizer.memory=low", "compute.recompute=selective", "schedule.steps=6"]
    for name, ranks, more in (("shared", 2, [SHARED, "compute.shard_ranks=1"]), ("alone", 1, [])):
        done = job(tmp_path / name, ranks, *half, *more)
        assert done.returncode == 0, done.stderr
    assert ledger(tmp_path / "shared") == ledger(tmp_path / "alone")
    assert losses(tmp_path / "shared") == pytest.approx(losses(tmp_path / "alone"), rel=2e-2)


def test_a_part_whose_loss_is_no_number_leaves_the_step_out_on_all(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 2, SHARED, "schedule.steps=4", env={"TRAINER_NAN": "3"})
    assert done.returncode == 0, done.stderr
    assert "BAD STEP 3" in done.stderr and "rows 12 to 17 of the order" in done.stderr


@pytest.mark.parametrize(
    ("ranks", "shared", "said"),
    [
        (1, 2, "1 rank is no whole number of groups of 2: start a multiple of 2 ranks by torchrun, or set it to 1"),
        (
            2,
            4,
            "2 ranks are no whole number of groups of 4: start a multiple of 4 ranks by torchrun, or set it to one "
            "of 1, 2",
        ),
        (
            8,
            3,
            "8 ranks are no whole number of groups of 3: start a multiple of 3 ranks by torchrun, or set it to one "
            "of 1, 2, 4, 8",
        ),
    ],
)
def test_one_rank_and_several_are_refused_in_right_words(ranks: int, shared: int, said: str) -> None:
    with pytest.raises(UserError) as refused:
        check_ranks(ranks, shared, "--context-ranks")
    assert str(refused.value) == f"--context-ranks: {said}"
    check_ranks(ranks * shared, shared)


def test_ranks_that_cannot_share_rows_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 3, SHARED)
    assert done.returncode != 0
    assert "compute.context_ranks: 3 ranks are no whole number of groups of 2" in done.stderr
    assert "start a multiple of 2 ranks by torchrun, or set it to one of 1, 3" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_feed_that_deals_whole_rows_to_ranks_that_share_them_is_refused_at_the_first_batch(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 2, SHARED, env={"TRAINER_WHOLE": "1"})
    assert done.returncode != 0
    assert "has 48 tokens of row 0: its part has 24" in done.stderr
    assert losses(tmp_path / "run") == {}


def test_ranks_that_are_told_to_share_with_another_number_are_named_and_none_waits(tmp_path: Path) -> None:
    done = job(tmp_path / "run", 2, SHARED, env={"TRAINER_SHARED": "1"})
    assert done.returncode != 0
    assert "rank 1 differs from rank 0: compute.context_ranks is 1, on rank 0 2" in done.stderr


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["data.row_tokens=130", "compute.context_ranks=4"], "4 ranks cannot share rows of data.row_tokens 130"),
        (["data.row_tokens=128", "compute.context_ranks=64"], "64 ranks share rows of data.row_tokens 128, 2 tokens"),
        (["compute.context_ranks=0"], "context_ranks"),
    ],
)
def test_a_recipe_whose_rows_cannot_be_shared_is_refused(changes: list[str], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        load_recipe("tiny-cpu", changes)


@pytest.mark.slow
def test_the_tiny_recipe_of_long_rows_learns_by_its_command_what_one_rank_learns(dataset: Path, tmp_path: Path) -> None:
    command = ["trainer", "--recipe", "tiny-cpu-long", "--data", dataset, "--set", "log.every_steps=1"]
    short = ["--set", "schedule.steps=4", "--set", "log.evaluate_every_steps=4", "--set", "log.evaluate_rows=2"]
    for name, ranks, more in (("shared", 2, []), ("alone", 1, ["--set", "compute.context_ranks=1"])):
        done = typed(*command, *short, "--out", tmp_path / name, *more, ranks=ranks)
        assert done.returncode == 0, done.stderr
    runs = {name: lines(tmp_path / name) for name in ("shared", "alone")}
    for ours, wanted in zip(*runs.values(), strict=True):
        counted = {
            key for key in wanted if key.startswith(("tokens/", "epochs/", "loss", "held_out/")) or key == "step"
        }
        assert {key: ours[key] for key in counted} == pytest.approx({key: wanted[key] for key in counted}, rel=1e-4)
    last, alone = (run[-2] for run in runs.values())
    assert last["tokens_per_second_per_gpu"] == pytest.approx(last["tokens_per_second"] / 2)
    assert alone["tokens_per_second_per_gpu"] == alone["tokens_per_second"]
    shutil.rmtree(tmp_path / "alone")
    done = typed("trainer", "--recipe", "tiny-cpu-long", "--out", tmp_path / "alone")
    assert done.returncode == 2 and "1 rank is no whole number of groups of 2" in done.stderr
    assert json.dumps(runs["shared"]).count("NaN") == 0
