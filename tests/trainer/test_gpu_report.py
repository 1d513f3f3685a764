"""The script for GPUs runs on a CPU what a CPU can run, and one measurement that fails takes nothing from the next."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import gpu_report, processes
from benchmarks.gpu_report import MEASUREMENTS, Measurement
from benchmarks.trainer import LOW
from trainer.config import load_recipe

DOCUMENTS = Path(__file__).parents[2] / "docs" / "training.md"


def report(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.gpu_report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)


def test_the_list_is_of_what_so_many_gpus_can_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for gpus in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["gpu_report", "--list", "--gpus", gpus])
        assert gpu_report.main() == 0
        listed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in listed] == [one.name for one in MEASUREMENTS if one.gpus <= int(gpus)]
    assert {"row-exchange", "checkpoint-two"} <= {one.name for one in MEASUREMENTS if one.gpus == 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["step-bfloat16,nothing"], "there is no nothing; --list shows what there is"),
        (["two-float8,decode-curve", "--gpus", "1"], "two-float8 would not run: --gpus 1 is too few"),
        (["row-exchange", "--gpus", "1"], "row-exchange would not run: --gpus 1 is too few"),
        (["two-float8,decode-curve", "--small"], "two-float8 would not run: no CPU can"),
    ],
)
def test_a_name_that_would_not_run_is_refused_in_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_report", "--only", *words])
    with pytest.raises(SystemExit) as refused:
        gpu_report.main()
    heard = capsys.readouterr()
    assert (refused.value.code, heard.out) == (2, "")
    assert heard.err == f"gpu_report: --only: {said}\n"


def test_one_that_fails_or_never_ends_is_told_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    programs = {"wrong": "raise SystemExit(3)", "endless": "import time; time.sleep(60)", "right": "print('a number')"}
    for name, text in programs.items():
        (tmp_path / f"{name}.py").write_text(text)
    made = [Measurement(name, 2, "", str(tmp_path / f"{name}.py")) for name in programs]
    monkeypatch.setattr(gpu_report, "MEASUREMENTS", made)
    monkeypatch.setattr(sys, "argv", ["gpu_report", "--small", "--out", str(tmp_path)])
    assert gpu_report.main() == 1
    said = capsys.readouterr().out
    assert "FAILED, exit code 3" in said and "ran past its time" in said and "right                  done" in said
    assert (tmp_path / "right.txt").read_text() == "a number\n"


def test_ranks_that_a_launcher_gave_sessions_of_their_own_end_with_it(tmp_path: Path) -> None:
    """As torchrun does."""
    rank = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}], start_new_session=True)"
    with (tmp_path / "said").open("w") as file:
        end = processes.ended(processes.command("-c", launcher), 1.5, file)
    assert end.code == processes.LATE
    number = int((tmp_path / "said").read_text())
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("here", "gpus", "said"),
    [
        (0, "1", "there is no GPU here: --small runs what a CPU can"),
        (0, "2", "there is no GPU here: --small runs what a CPU can"),
        (1, "2", "--gpus 2: there is 1 GPU here"),
        (2, "4", "--gpus 4: there are 2 GPUs here"),
    ],
)
def test_fewer_gpus_than_it_is_to_measure_are_one_line_and_nothing_begins(
    here: int,
    gpus: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(sys, "argv", ["gpu_report", "--gpus", gpus, "--seconds", "0", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as refused:
        gpu_report.main()
    heard = capsys.readouterr()
    assert (refused.value.code, heard.out, heard.err.count("\n")) == (2, "", 1)
    assert heard.err.endswith(f": {said}\n")
    assert not (tmp_path / "out").exists()


def test_what_would_end_too_late_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["gpu_report", "--seconds", "10", "--out", str(tmp_path)])
    assert gpu_report.main() == 0
    assert capsys.readouterr().out.count("not begun") == len([one for one in MEASUREMENTS if one.gpus == 1])


def test_every_name_stands_in_the_table_of_the_page() -> None:
    text = DOCUMENTS.read_text("utf-8")
    assert [one.name for one in MEASUREMENTS if f"`{one.name}`" not in text] == []


def test_steps_are_of_two_rows_a_gpu_at_once_as_those_in_the_table_of_the_page() -> None:
    """On several ranks too: `benchmarks.trainer alone` gives `data.batch_rows` to each."""
    steps = [one for one in MEASUREMENTS if one.name.startswith(("step-", "two-"))]
    rows = {}
    for one in steps:
        recipe = load_recipe("bamba-9b-phase1", [*LOW, *one.command.removeprefix(gpu_report.ALONE).split()])
        rows[one.name] = recipe.data.batch_rows, recipe.compute.micro_rows, recipe.data.row_tokens
    assert rows.pop("step-8-micro-batches") == (8, 1, 4096)
    assert len(rows) == 6 and set(rows.values()) == {(2, 2, 4096)}


def test_the_checkpoint_of_two_ranks_is_the_one_in_the_table_of_the_page() -> None:
    command = next(one.command for one in MEASUREMENTS if one.name == "checkpoint-two")
    _, _, name, _, *changes = command.split()
    recipe = load_recipe(name, changes)
    assert recipe.optimizer.memory == "full" and round(12 * recipe.model.parameters / 1e9) == 117
    assert (recipe.data.batch_rows, recipe.compute.micro_rows, recipe.compute.shard_ranks) == (2, 2, None)


@pytest.mark.costly
def test_a_step_and_the_casts_run_on_a_cpu(tmp_path: Path) -> None:
    done = report("--small", "--only", "float8-casts,step-8-micro-batches", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"tokens_per_second"' in (tmp_path / "step-8-micro-batches.txt").read_text()


@pytest.mark.long
def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    done = report("--small", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + "".join(file.read_text()[-800:] for file in tmp_path.glob("*.txt"))
    assert done.stdout.count("done") == len([one for one in MEASUREMENTS if one.small is not None])
