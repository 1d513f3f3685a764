"""The record of a run on the store: its verdict outlives the cluster, and a `stop` is kept to until somebody acts."""

import contextlib
import json
import os
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from bamba_data.canonical_json import dumps
from bamba_data.errors import (
    BudgetExceeded,
    CorruptInput,
    CorruptManifest,
    PublishConflict,
    RecipeError,
    SourceUnavailable,
    Unfinished,
    UserError,
)
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import RUNS, status_path
from bamba_data.inspect import garbage
from bamba_data.storage.store import LocalStore, open_store
from pipelines.cli.options import load_recipe
from pipelines.observe import runs
from pipelines.observe.counters import Counters
from pipelines.observe.progress import Snapshot
from pipelines.observe.run_log import MAX_POINTS, RunLog, recorded
from pipelines.observe.runs import Run, Stopped
from tests.corpora import recipe as write_recipe
from tests.corpora import records, write_jsonl
from tests.running import bamba, verdict, wait_for
from tests.servers.faults import FOREVER, Fault, LoseReply, Status
from tests.servers.proxy import FlakyProxy

RUN = Run("demo-0123456789ab", "build", "demo")


def attempt(store: LocalStore, error: BaseException | None = None, retry_stopped: bool = False) -> runs.Status:
    """An attempt that ends so; its status as it lies in the store."""
    with contextlib.suppress(BaseException), RunLog(store, RUN, retry_stopped) as journal:
        if error:
            raise error
    return runs.read(store, f"{RUNS}/{RUN.name}/{journal.status.attempt}/status.json")


def snapshot(units_done: int = 1, input_bytes: int = 10) -> Snapshot:
    counts = Counters(input_bytes=input_bytes, text_bytes=30, documents=2, tokens=7, bad=1, units=units_done)
    return Snapshot(
        units_failed=1,
        running=2,
        cores=4,
        counts=counts,
        by_source={"books": Counters(documents=2, tokens=7, bad=1, units=1)},
        retries={"status 503": 3},
        lines=["a remark"],
    )


# ---- verdicts


def test_an_attempt_that_ends_well_is_complete(tmp_path: Path) -> None:
    ended = attempt(LocalStore(tmp_path))
    assert (ended.verdict, ended.exit_code, ended.phase) == ("complete", 0, "ended")


@pytest.mark.parametrize(
    "error",
    [RecipeError("field x"), BudgetExceeded("too many"), CorruptInput("s3://b/x", "bad crc", 7)],
    ids=lambda error: type(error).__name__,
)
def test_after_a_stop_the_same_run_does_nothing_and_says_why_until_it_is_told_to(
    error: Exception, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    assert attempt(store, error).verdict == "stop"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(Stopped, match="--retry-stopped") as refused, RunLog(store, RUN):
            raise AssertionError("it began to work")
        assert str(error) in str(refused.value)
        assert refused.value.exit_code == error.exit_code  # type: ignore[attr-defined]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert attempt(store, retry_stopped=True).verdict == "complete"
    assert attempt(store).verdict == "complete"  # and it stays so


@pytest.mark.parametrize(
    "error",
    [
        Unfinished("SIGTERM"),
        SourceUnavailable("https://x/y", "503"),
        PublishConflict(2, "a" * 64, "b" * 64),
        OSError(28, "No space left on device"),
        KeyboardInterrupt(),
        ZeroDivisionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_is_unfinished_and_may_be_tried_again(error: BaseException, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert attempt(store, error).verdict == "unfinished"
    assert attempt(store).verdict == "complete"


def test_a_stop_of_one_run_does_not_stop_another(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    attempt(store, RecipeError("x"))
    with RunLog(store, Run("other-0123456789ab", "build", "other")):
        pass


def test_an_attempt_that_was_killed_is_told_from_one_that_works(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with RunLog(store, RUN) as journal:
        path = f"{RUNS}/{RUN.name}/{journal.status.attempt}/status.json"
        assert runs.read(store, path).state == "running"
        silent = runs.read(store, path)
    silent.updated_seconds = time.time() - 3600
    store.put(path, runs.sealed(silent))
    assert runs.read(store, path).state == "lost"


# ---- what was asked for


def named(*overrides: str, command: str = "build", mirror: str | None = None, relock: bool = False) -> str:
    return Run.of(command, load_recipe("demo", list(overrides))[0], mirror, relock).name


def test_the_same_request_has_one_name_and_another_request_another() -> None:
    assert named() == named("network.burst=7")
    others = [
        named("bad_input.max_bad_rate=0.5"),
        named("unit_bytes=7"),
        named(command="download"),
        named(mirror="/mirror"),
        named(relock=True),
    ]
    assert len({named(), *others}) == 1 + len(others)
    assert named().startswith("demo-")


def test_a_machine_that_reads_the_recipe_otherwise_than_its_submitter_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAMBA_RUN", "demo-ffffffffffff")
    with (
        pytest.raises(UserError, match="the submitter means demo-ffffffffffff"),
        recorded(RUN, str(tmp_path), False, False, 10),
    ):
        raise AssertionError("it began to work")
    assert json.loads(capsys.readouterr().out)["verdict"] == "stop"
    assert not list(tmp_path.iterdir())


# ---- what the record holds


def test_the_status_has_where_the_work_is_and_what_was_left_out(tmp_path: Path, tiny: Path) -> None:
    store, manifest = LocalStore(tmp_path), open_dataset(tiny).manifest
    with RunLog(store, RUN) as journal:
        journal.planned("ab" * 32, units_total=5, units_done=0, input_bytes=100)
        journal.saw(snapshot())
        journal.published(3, manifest)
    found = runs.newest(store, RUN.name)
    assert found is not None
    assert (found.units_done, found.units_total, found.units_failed, found.input_bytes) == (1, 5, 1, 10)
    assert (found.documents, found.tokens, found.bad, found.retries) == (2, 7, 1, {"status 503": 3})
    assert found.sources == {"books": {"documents": 2, "tokens": 7, "bad": 1, "units": 1}}
    stored = sum(source.size_bytes for source in manifest.sources)
    assert (found.dataset, found.version, found.shard_bytes) == (manifest.digest, 3, stored)
    assert found.left_out == {"empty_text": 1, "bad_json": 1, "missing_text": 1}
    assert set(found.phase_seconds) == {"prepare", "tokenize"}
    assert [event["event"] for event in runs.events(store, found)] == [
        "started",
        "phase",
        "remark",
        "published",
        "ended",
    ]


def test_it_is_written_while_the_work_goes_on_and_no_event_file_twice(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with RunLog(store, RUN, interval_seconds=0.05) as journal:
        folder = tmp_path / RUNS / RUN.name / journal.status.attempt
        journal.saw(snapshot(units_done=1))
        deadline = time.monotonic() + 20
        while runs.read(store, str((folder / "status.json").relative_to(tmp_path))).units_done != 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first = (folder / "events-000001.jsonl").read_bytes()
        for _ in range(3):
            journal.event("more")
            time.sleep(0.1)
    assert (folder / "events-000001.jsonl").read_bytes() == first
    assert len(list(folder.glob("events-*.jsonl"))) >= 3


def test_the_curve_of_a_long_run_stays_small_and_spans_it(tmp_path: Path) -> None:
    with RunLog(LocalStore(tmp_path), RUN, interval_seconds=0.0) as journal:
        journal._started -= 1e6
        for step in range(5000):
            journal._started -= 1  # as if a second had passed
            journal.saw(snapshot(units_done=step, input_bytes=step))
        points = journal.status.points
    assert MAX_POINTS / 4 < len(points) <= MAX_POINTS
    assert points[0].input_bytes < 200 and points[-1].input_bytes > 4700
    assert [p.seconds for p in points] == sorted(p.seconds for p in points)


def test_a_store_that_cannot_take_the_record_does_not_stop_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    worked = False
    with RunLog(LocalStore(blocked), RUN, interval_seconds=0.05) as journal:
        journal.saw(snapshot())
        time.sleep(0.2)
        worked = True
    assert worked
    assert capsys.readouterr().err.count("cannot be written") == 1


SECRETS: Mapping[str, str] = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret",
    "HF_TOKEN": "canary-hf-token",
    "MY_DB_PASSWORD": "canary-db-password",
    "RAY_AUTH_TOKEN": "canary-ray-token",
}


def test_no_secret_of_the_environment_gets_into_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said = " ".join(SECRETS.values())
    seen = snapshot()
    seen.lines = [f"redirected to {said}"]
    with pytest.raises(SourceUnavailable), recorded(RUN, str(tmp_path), False, False, 10) as journal:
        journal.saw(seen)
        raise SourceUnavailable("https://host/x", said)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"<HF_TOKEN>" in written
    assert b"canary" not in written
    assert "canary" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"format":"bamba-run/1"}', b"{}" + b" " * (1 << 20)])
def test_a_damaged_record_is_an_error_that_names_it(data: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    path = f"{RUNS}/x/y/status.json"
    store.put(path, data)
    with pytest.raises(CorruptManifest, match=r"y/status\.json"):
        runs.read(store, path)


@pytest.mark.s3
def test_the_record_is_the_same_on_s3(bucket: str) -> None:
    store = open_store(f"{bucket}/data")
    with pytest.raises(BudgetExceeded), RunLog(store, RUN) as journal:
        journal.saw(snapshot())
        raise BudgetExceeded("too many")
    with pytest.raises(Stopped), RunLog(store, RUN):
        pass
    found = runs.newest(store, RUN.name)
    assert found is not None and [e["event"] for e in runs.events(store, found)] == ["started", "remark", "ended"]


@pytest.mark.s3
def test_attempts_at_once_with_a_third_of_all_replies_lost_leave_every_event_once_and_their_own_verdicts(
    flaky: FlakyProxy, bucket: str
) -> None:
    flaky.faults.append(Fault(RUNS, LoseReply(), times=FOREVER, probability=0.3))
    errors = [None, BudgetExceeded("too many"), Unfinished("SIGTERM"), SourceUnavailable("https://x/y", "503")]

    def work(number: int) -> str:
        journal = RunLog(open_store(f"{bucket}/data"), RUN, retry_stopped=True, interval_seconds=0.05)
        with contextlib.suppress(BudgetExceeded, Unfinished), journal:
            for step in range(12):
                journal.event("step", number=number, step=step)
                time.sleep(0.03)
            if error := errors[number]:
                raise error
        return journal.status.attempt

    with ThreadPoolExecutor(len(errors)) as pool:
        names = list(pool.map(work, range(len(errors))))
    flaky.faults.clear()
    assert [line.client_status for line in flaky.requests].count(None) > 10
    store = open_store(f"{bucket}/data")
    found = {status.attempt: status for status in runs.attempts(store, RUN.name)}
    assert [found[name].exit_code for name in names] == [0, 3, 4, 4]
    for number, name in enumerate(names):
        happened = list(runs.events(store, found[name]))
        assert [event["event"] for event in happened] == ["started", *["step"] * 12, "ended"]
        assert [(event["number"], event["step"]) for event in happened[1:-1]] == [(number, n) for n in range(12)]
    assert not [line for line in flaky.requests if line.method == "DELETE"]


@pytest.mark.s3
def test_what_happens_while_the_store_is_down_is_in_the_record_when_it_is_back(
    flaky: FlakyProxy, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bamba_data.storage.store.RETRY_SECONDS", 0.1)
    store = open_store(f"{bucket}/data")
    with RunLog(store, RUN, interval_seconds=0.05) as journal:
        flaky.faults.append(Fault(f"PUT .*{RUNS}", Status(503), times=FOREVER))
        for number in range(3):
            journal.event("step", number=number)
            refused = len(flaky.requests) + 3
            wait_for(lambda: len(flaky.requests) >= refused, what="the store to refuse it")  # noqa: B023 - at once
        flaky.faults.clear()
    assert capsys.readouterr().err.count("cannot be written") == 1
    (status,) = runs.attempts(store, RUN.name)
    steps = [event["number"] for event in runs.events(store, status) if event["event"] == "step"]
    assert steps == [0, 1, 2]
    assert status.verdict == "complete"


def test_a_sweep_leaves_the_record_alone_however_old(tiny_copy: Path) -> None:
    attempt(LocalStore(tiny_copy), BudgetExceeded("too many"))
    assert not [entry for entry in garbage.find(str(tiny_copy), 0).orphans if "/runs/" in entry.path]
    garbage.remove(str(tiny_copy), garbage.find(str(tiny_copy), 0))
    with pytest.raises(Stopped), RunLog(LocalStore(tiny_copy), RUN):
        pass


# ---- the whole, as a process


@pytest.mark.costly
@pytest.mark.ray
def test_a_build_of_a_damaged_input_is_not_tried_again_before_somebody_says_so(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "inputs" / "0.json.gz", records(30))
    good, times = path.read_bytes(), path.stat()
    path.write_bytes(good[:-400] + bytes(400))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    recipe, out = write_recipe(tmp_path, backend="tokenizers"), tmp_path / "out"
    first = bamba("build", recipe, "--out", out, "--workers", "1")
    assert (first.returncode, verdict(first.stdout)["verdict"]) == (5, "stop")
    assert "with --retry-stopped" in first.stderr  # said when it is needed, not when it is missed
    again = bamba("build", recipe, "--out", out, "--workers", "1")
    assert (again.returncode, verdict(again.stdout)["verdict"]) == (5, "stop")
    assert "nothing was done" in again.stderr and "0.json.gz" in again.stderr
    assert len(list((out / RUNS).glob("*/*/status.json"))) == 1
    path.write_bytes(good)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = bamba("build", recipe, "--out", out, "--workers", "1", "--retry-stopped")
    assert done.returncode == 0, done.stderr


# ---- clocks and damage


def ended_at(store: LocalStore, error: BaseException | None, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: seconds)
        attempt(store, error, retry_stopped=True)


@pytest.mark.parametrize("ahead_seconds", [10 * 365 * 86400.0, -10 * 365 * 86400.0])
def test_a_stop_of_a_machine_with_a_wrong_clock_does_not_outlive_a_later_attempt(
    tmp_path: Path, ahead_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = LocalStore(tmp_path), time.time()
    ended_at(store, RecipeError("x"), now + ahead_seconds, monkeypatch)
    with pytest.raises(Stopped), RunLog(store, RUN):
        raise AssertionError
    attempt(store, retry_stopped=True)
    assert attempt(store).verdict == "complete"
    assert [one.attempt for one in runs.attempts(store)] == ["000001", "000002", "000003"]


def test_an_attempt_of_before_they_were_numbered_is_older_than_any_that_is(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old = attempt(store, RecipeError("x"))
    (tmp_path / RUNS / RUN.name / old.attempt).rename(tmp_path / RUNS / RUN.name / "20991122T000000.0Z-abc")
    old.attempt, old.format = "20991122T000000.0Z-abc", runs.UNSEALED_FORMAT
    store.put(status_path(RUN.name, old.attempt), dumps(msgspec.to_builtins(old)))
    with pytest.raises(Stopped), RunLog(store, RUN):
        raise AssertionError
    assert attempt(store, retry_stopped=True).attempt == "000001"
    assert attempt(store).verdict == "complete"


def test_attempts_that_start_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: attempt(LocalStore(tmp_path)).attempt, range(16)))
    assert sorted(made) == [f"{number:06d}" for number in range(1, 17)]


def test_a_flipped_bit_in_the_record_of_a_run_changes_no_verdict_and_stops_nothing(tmp_path: Path) -> None:
    store, chance = LocalStore(tmp_path), random.Random(3)
    attempt(store, RecipeError("field x"))
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for _ in range(120):
        path = chance.choice(files)
        whole = path.read_bytes()
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        (found,) = runs.attempts(store)
        assert (found.verdict, found.exit_code) == ("stop", 2) and "field x" in found.reason
        with pytest.raises(Stopped, match="field x"), RunLog(store, RUN):
            raise AssertionError
        path.write_bytes(whole)
    for path in files:
        path.write_bytes(b"")
    assert attempt(store).verdict == "complete"  # nothing is known of it: so it may be tried
