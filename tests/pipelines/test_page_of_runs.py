"""How runs went and what they cost, on the page of a dataset: right in its numbers, also where nothing is published."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from bamba_data.errors import CorruptInput, UserError
from bamba_data.storage.store import LocalStore
from pipelines.observe.counters import Counters
from pipelines.observe.progress import Snapshot
from pipelines.observe.run_costs import cost_of, run_costs
from pipelines.observe.run_log import RunLog
from pipelines.observe.runs import Point, Run, Status, attempts
from tests.running import bamba, started

RUN = Run("tiny-0123456789ab", "build", "tiny")


def attempt(core_hours: float, tokens: int = 0, first_bytes: int = 0, last_bytes: int = 0) -> Status:
    return Status(
        run=RUN.name,
        attempt="a",
        command="build",
        recipe="tiny",
        started_at="",
        updated_seconds=0,
        interval_seconds=10,
        core_seconds=3600 * core_hours,
        unit_seconds=1800 * core_hours,
        tokens=tokens,
        input_bytes=last_bytes,
        points=[Point(0, first_bytes, 0, 0, 0, 0, 1), Point(60, last_bytes, 0, tokens, 1, 1, 1)],
        phase_seconds={"prepare": 600, "tokenize": 3000},
    )


def record(url: Path, *errors: BaseException | None, run: Run = RUN) -> None:
    """Attempts that ended so."""
    for error in errors:
        try:
            with RunLog(LocalStore(url), run, retry_stopped=True) as journal:
                journal.planned("ab" * 32, 2, 0, 100)
                for step in range(3):
                    journal._started -= 60
                    counts = Counters(input_bytes=50 * step, documents=step, tokens=10 * step, units=step)
                    journal.saw(Snapshot(running=1, cores=2, counts=counts))
                if error:
                    raise error
        except (CorruptInput, KeyboardInterrupt):
            pass


def only_run(url: Path) -> dict[str, Any]:
    (run,) = run_costs(LocalStore(url))
    json.dumps(run, allow_nan=False)
    return run


def test_what_attempts_cost_adds_up_and_work_done_before_is_counted_once() -> None:
    cost = cost_of([attempt(2, 3_600, 0, 700), attempt(1, 7_200, 700, 1_000)], price_per_core_hour=0.05)
    assert (cost.attempts, cost.core_hours, cost.unit_hours, cost.wall_hours) == (2, 3, 1.5, 2)
    assert (cost.input_bytes, cost.tokens) == (1_000, 10_800)
    assert cost.tokens_per_core_second == 1
    assert cost.money == pytest.approx(0.15)
    assert cost_of([]).money is None


def test_a_run_that_was_stopped_says_why_and_all_its_attempts(tmp_path: Path) -> None:
    record(tmp_path, None, CorruptInput("s3://b/x.gz", "bad crc", 7))
    run = only_run(tmp_path)
    assert run["state"] == "stop" and "s3://b/x.gz: bad crc at byte 7" in run["reason"]
    assert [one["state"] for one in run["attempts"]] == ["complete", "stop"]


def test_the_curve_of_a_short_run_goes_to_its_end(tmp_path: Path) -> None:
    """A small build's last snapshots come sooner than a point of the curve is due."""
    with RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.planned("ab" * 32, 2, 0, 100)
        journal._started -= 5
        journal.saw(Snapshot(running=2, cores=2))
        journal.phase("tokenize")
        journal._phase_started -= 30  # as if it had worked so long
        journal.saw(Snapshot(cores=2, counts=Counters(input_bytes=100, documents=3, tokens=700, units=2)))
        journal.phase("publish")
    (status,) = attempts(LocalStore(tmp_path))
    assert len(status.points) == 1
    run = only_run(tmp_path)
    assert run["read_bytes"] == run["total_bytes"] == 100
    assert [point[1:] for point in run["attempts"][0]["curve"]] == [[0, 0], [100, 700]]


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path: Path) -> None:
    with RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.planned("ab" * 32, 2, 0, 100)
    status = next(attempts(LocalStore(tmp_path)))
    status.points = [Point(n, n, n, n, n, 0, 1) for n in range(1001)]
    from pipelines.observe.run_costs import MAX_POINTS, _attempt

    curve = _attempt(status)["curve"]
    assert len(curve) <= MAX_POINTS + 1 and curve[-1] == [1000, 1000, 1000]


def test_a_complete_run_that_had_nothing_left_to_do_is_at_its_end(tmp_path: Path) -> None:
    with RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.planned("ab" * 32, 2, 2, 100)
    run = only_run(tmp_path)
    assert run["read_bytes"] == run["total_bytes"] and not run["attempts"][0]["curve"]


def test_a_run_that_was_given_up_is_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.planned("ab" * 32, 2, 0, 1000)
        journal.saw(Snapshot(cores=2, counts=Counters(input_bytes=999, units=1)))
        raise KeyboardInterrupt
    run = only_run(tmp_path)
    assert (run["read_bytes"], run["total_bytes"]) == (999, 1000)


def test_where_only_runs_are_on_record_they_are_the_page(tmp_path: Path) -> None:
    record(tmp_path / "place", CorruptInput("s3://b/x.gz", "bad crc", 7))
    done = bamba("page", tmp_path / "place", "-o", tmp_path / "page.html", "--price-per-core-hour", "0.04")
    assert done.returncode == 0, done.stderr
    assert "bad crc at byte 7" in (tmp_path / "page.html").read_text(encoding="utf-8")
    done = bamba("page", tmp_path / "place", "-o", tmp_path / "page.html", "--plan", tmp_path / "plan.json")
    assert done.returncode == UserError.exit_code and "none is published" in done.stderr


def test_report_is_what_page_is(tiny_copy: Path, tmp_path: Path) -> None:
    record(tiny_copy, None)
    done = bamba("report", tiny_copy, "--to", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert bamba("page", tiny_copy, "--out", tmp_path / "page.html").returncode == 0
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_ctrl_c_is_how_a_server_ends(tiny: Path) -> None:
    with started("serve", tiny) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("http://127.0.0.1:") or process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_there_is_nothing_to_serve_where_only_runs_are_on_record(tmp_path: Path) -> None:
    record(tmp_path, CorruptInput("s3://b/x.gz", "bad crc", 7))
    done = bamba("serve", tmp_path)
    assert done.returncode == UserError.exit_code and "only runs are on record" in done.stderr


def test_a_file_whose_folder_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    nowhere, data = tmp_path / "no" / "file.png", tmp_path / "no-data"
    for command, option in (
        (("page", data), "--out"),
        (("stats", data), "--plot"),
        (("duplicates", data), "--out"),
        (("model", "phonebook", data), "--plot"),
        (("model", "evaluate", data, "--by-position"), "--csv"),
    ):
        ended = bamba(*command, option, nowhere)
        assert ended.returncode == 2 and f"{option} {nowhere}: the folder {nowhere.parent} is not there" in ended.stderr
