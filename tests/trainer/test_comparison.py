"""Many checkpoints beside each other: which are meant, the table, the file, the picture."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bamba_data.errors import UserError
from bamba_data.storage.store import LocalStore
from tests.trainer.small import model, saved
from trainer.checkpoint.commits import folder_name
from trainer.checkpoint.reader import write
from trainer.tasks.comparison import Numbers, checkpoints_of, draw, table, write_csv

EARLY = Numbers("runs/a/checkpoints", "step-3", 3, "0123456789abcdef", {"piqa": 0.5, "arc_easy": 0.25}, 0.375)
LATE = replace(EARLY, name="step-9", step=9, tasks={"piqa": 0.75, "arc_easy": 0.35}, mean=0.55)
OTHER = replace(LATE, run="runs/b/checkpoints")


def a_run(folder: Path) -> list[str]:
    """Two committed checkpoints, the older first."""
    early = saved(folder, model())
    later = folder_name(9, "0")
    weights = ((f"model.{name}", value.detach()) for name, value in model().named_parameters())
    write(LocalStore(folder / "checkpoints"), later, weights, {"step": 9, "recipe": early.commit["recipe"]})
    return [f"{folder}/checkpoints/{name}" for name in (early.name, later)]


def test_a_run_means_its_newest_checkpoint_or_every_one_the_oldest_first(tmp_path: Path) -> None:
    early, late = a_run(tmp_path / "run")
    assert checkpoints_of([f"{tmp_path}/run"], every=False) == [late]
    assert checkpoints_of([f"{tmp_path}/run", early], every=False) == [late, early]
    assert checkpoints_of([f"{tmp_path}/run/"], every=True) == [early, late]


def test_a_checkpoint_that_is_meant_twice_and_every_one_of_one_are_refused(tmp_path: Path) -> None:
    _, late = a_run(tmp_path / "run")
    with pytest.raises(UserError, match="asked for twice"):
        checkpoints_of([f"{tmp_path}/run", late], every=False)
    with pytest.raises(UserError, match="name its run"):
        checkpoints_of([late], every=True)


def test_the_table_has_a_column_for_each_checkpoint() -> None:
    assert table([EARLY]).splitlines() == [
        "step 3, checkpoint 0123456789ab",
        "piqa       50.00",
        "arc_easy   25.00",
        "mean       37.50",
    ]
    assert table([EARLY, LATE]).splitlines() == [
        "1: step 3, runs/a/checkpoints/step-3",
        "2: step 9, runs/a/checkpoints/step-9",
        "",
        "               1       2",
        "piqa       50.00   75.00",
        "arc_easy   25.00   35.00",
        "mean       37.50   55.00",
    ]


def test_the_file_and_the_picture_hold_all_runs(tmp_path: Path) -> None:
    write_csv([EARLY, LATE, OTHER], tmp_path / "numbers.csv")
    with (tmp_path / "numbers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["run"], row["step"], row["task"]): float(row["number"]) for row in rows}
    assert len(found) == 9 and found["runs/b/checkpoints", "9", "mean"] == 0.55
    draw([EARLY, LATE, OTHER], "leaderboard-v1", tmp_path / "curve.svg")
    drawn = (tmp_path / "curve.svg").read_text()
    assert all(f"<!-- {word} -->" in drawn for word in ("piqa", "mean, a", "mean, b", "leaderboard-v1"))
