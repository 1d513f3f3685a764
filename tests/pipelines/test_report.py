"""The report of a dataset: one page, right in its numbers, whole in itself, safe whatever the names in it are."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from bamba_data.errors import CorruptInput, UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.storage.store import LocalStore
from pipelines.observe.counters import Counters
from pipelines.observe.progress import Snapshot
from pipelines.observe.report import cost_of, page
from pipelines.observe.run_log import RunLog
from pipelines.observe.runs import Point, Run, Status, attempts
from tests.running import bamba

RUN = Run("tiny-0123456789ab", "build", "tiny")


class Parsed(HTMLParser):
    """The tags of a page and where they point; what is open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "p"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "p":
            assert self.open.pop() == tag


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


def test_what_attempts_cost_adds_up_and_work_done_before_is_counted_once() -> None:
    cost = cost_of([attempt(2, 3_600, 0, 700), attempt(1, 7_200, 700, 1_000)], price_per_core_hour=0.05)
    assert (cost.attempts, cost.core_hours, cost.unit_hours, cost.wall_hours) == (2, 3, 1.5, 2)
    assert (cost.input_bytes, cost.tokens) == (1_000, 10_800)
    assert cost.tokens_per_core_second == 1
    assert cost.money == pytest.approx(0.15)
    assert cost_of([]).money is None


def test_the_page_has_the_dataset_and_its_runs(tiny_copy: Path) -> None:
    record(tiny_copy, CorruptInput("s3://b/x.gz", "bad crc", 7), None)
    text = page(str(tiny_copy), price_per_core_hour=0.05, currency="€")
    parsed, manifest = Parsed(text), open_dataset(str(tiny_copy)).manifest
    assert parsed.open == []
    assert f"{manifest.totals.tokens:,}" in text and manifest.digest in text
    assert all(source.name in text for source in manifest.sources)
    assert RUN.name in text and "complete" in text and "stop" in text
    assert "€" in text and "€0.00<" not in text, "a small cost is not nothing"
    assert parsed.tags.count("img") == 2


def test_nothing_is_fetched_to_show_it(tiny_copy: Path) -> None:
    record(tiny_copy, None)
    assert all(target.startswith("data:image/png;base64,") for target in Parsed(page(str(tiny_copy))).targets)


def test_a_run_without_a_dataset_says_why_there_is_none(tmp_path: Path) -> None:
    record(tmp_path, CorruptInput("s3://b/x.gz", "bad crc", 7))
    text = page(str(tmp_path))
    assert "s3://b/x.gz: bad crc at byte 7" in text and "stop" in text


def test_no_name_and_no_reason_becomes_part_of_the_page(tmp_path: Path) -> None:
    hostile = Run("x-0123456789ab", "build", "<script>alert(1)</script>")
    record(tmp_path, CorruptInput("<img src=http://evil/x>", "</p><script>", 7), run=hostile)
    parsed = Parsed(page(str(tmp_path), 1.0, "<script>"))
    assert "script" not in parsed.tags
    assert all(target.startswith("data:") for target in parsed.targets)


def finished_within_one_interval(url: Path) -> None:
    """As a small build is: its last snapshots came sooner than a point of the curve is due."""
    with RunLog(LocalStore(url), RUN) as journal:
        journal.planned("ab" * 32, 2, 0, 100)
        journal._started -= 5
        journal.saw(Snapshot(running=2, cores=2))
        journal.phase("tokenize")
        journal._phase_started -= 30  # as if it had worked so long
        journal.saw(Snapshot(cores=2, counts=Counters(input_bytes=100, documents=3, tokens=700, units=2)))
        journal.phase("publish")


def test_the_curve_of_a_short_run_goes_to_its_end(tmp_path: Path) -> None:
    finished_within_one_interval(tmp_path)
    (status,) = attempts(LocalStore(tmp_path))
    assert len(status.points) == 1 and [point.input_bytes for point in status.curve] == [0, 100]
    assert status.curve[-1].tokens == 700 and status.curve[-1].seconds > status.points[-1].seconds
    text = page(str(tmp_path))
    assert "<dd>100%</dd>" in text and Parsed(text).tags.count("img") == 1


def test_a_complete_run_that_had_nothing_left_to_do_is_at_its_end(tmp_path: Path) -> None:
    with RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.planned("ab" * 32, 2, 2, 100)
    text = page(str(tmp_path))
    assert "<dd>100%</dd>" in text and "img" not in Parsed(text).tags


def test_a_run_that_was_given_up_is_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.planned("ab" * 32, 2, 0, 1000)
        journal.saw(Snapshot(cores=2, counts=Counters(input_bytes=999, units=1)))
        raise KeyboardInterrupt
    assert "<dd>99%</dd>" in page(str(tmp_path))


def test_a_column_is_there_for_who_has_something_to_say_in_it(tmp_path: Path) -> None:
    finished_within_one_interval(tmp_path)
    assert "retries" not in page(str(tmp_path)) and "throttled" not in page(str(tmp_path))
    with RunLog(LocalStore(tmp_path), RUN) as journal:
        journal.saw(Snapshot(cores=2, retries={"a host that was away for long": 3}))
    assert "<td class=words>a host that was away for long 3</td>" in page(str(tmp_path))


def test_where_nothing_is_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a dataset nor the record of a run"):
        page(str(tmp_path))


def test_the_command_writes_the_page(tiny_copy: Path, tmp_path: Path) -> None:
    done = bamba("report", tiny_copy, "-o", tmp_path / "page.html", "--price-per-core-hour", "0.04")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
