"""What was asked for, and how it stands: read from the object store, where it outlives every cluster.

    _bamba/runs/<run>/<attempt>/status.json          the newest state of one attempt, replaced every few seconds
    _bamba/runs/<run>/<attempt>/events-000001.jsonl  what happened, in order; a file is never written twice

A *run* is what was asked for: the same recipe, mirror and command have the same name on every machine. An *attempt* is
one process that works on it; a scheduler that tries again makes a new one. pipelines.observe.run_log writes them.

Attempts of a run are numbered, each number created once: the newest is the one with the highest, whatever the clocks of
their machines say. (Those of before 2026-11-28 are named by their time, and older than any number.) A status and every
event are sealed; of a status that is damaged the events tell how it ended.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bamba_data import canonical_json
from bamba_data.errors import (
    BambaError,
    BudgetExceeded,
    CorruptManifest,
    DatasetNotFound,
    IntegrityError,
    UserError,
)
from bamba_data.format import version_marks
from bamba_data.format.layout import RUNS, run_folder
from bamba_data.recipe import Recipe
from bamba_data.records import SEAL, converted, seal, unseal
from bamba_data.storage.store import Entry, Store

FORMAT = "bamba-run/2"
UNSEALED_FORMAT = "bamba-run/1"  # of before 2026-11-28
DAMAGED = "the status of this attempt is damaged; so much its events tell"
_NUMBER = re.compile(r"\d{6,}")
MAX_BYTES = 1 << 20
SILENT_INTERVALS = 6  # an attempt that says nothing for so long was killed

Verdict = Literal["complete", "unfinished", "stop"]


class Point(msgspec.Struct, array_like=True, frozen=True):
    """How far an attempt was, `seconds` after its start."""

    seconds: float
    input_bytes: int
    documents: int
    tokens: int
    units_done: int
    in_flight: int
    cores: int


class Status(msgspec.Struct, kw_only=True):
    """One attempt. Times are ISO 8601 in UTC by the driver's clock; `updated_seconds` is the same since 1970.

    `verdict` is None while it works. `core_seconds` is what the cluster held while units ran, `unit_seconds` the part
    of it in which a unit was running. `left_out` are the records that are no documents of what was published, by
    reason.
    """

    format: str = FORMAT
    run: str
    attempt: str
    command: str
    recipe: str
    started_at: str
    updated_seconds: float
    interval_seconds: float
    phase: str = "prepare"
    verdict: Verdict | None = None
    exit_code: int | None = None
    reason: str = ""
    plan: str = ""
    dataset: str = ""
    version: int = 0
    units_done: int = 0
    units_total: int = 0
    units_failed: int = 0
    in_flight: int = 0
    input_bytes_total: int = 0
    input_bytes: int = 0
    text_bytes: int = 0
    shard_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    bad: int = 0
    cores: int = 0
    core_seconds: float = 0.0
    unit_seconds: float = 0.0
    throttled_seconds: float = 0.0
    retries: dict[str, int] = {}
    sources: dict[str, dict[str, int]] = {}
    phase_seconds: dict[str, float] = {}
    left_out: dict[str, int] = {}
    points: list[Point] = []
    place: dict[str, str] = {}

    @property
    def is_silent(self) -> bool:
        """It has no verdict, and has not been heard of for so long that it cannot be running."""
        # The clocks of two machines: a minute's difference is nothing beside 6 intervals of 10 seconds or more.
        silent_seconds = time.time() - self.updated_seconds
        return self.verdict is None and silent_seconds > SILENT_INTERVALS * max(self.interval_seconds, 10.0)

    @property
    def input_bytes_read(self) -> int:
        """Of the whole plan, by this attempt and those before it: of a complete one, all."""
        return self.input_bytes_total if self.verdict == "complete" else self.input_bytes

    @property
    def curve(self) -> list[Point]:
        """The points, to where the attempt ended: a short one ends between two of them."""
        seconds = self.phase_seconds.get("prepare", 0.0) + self.phase_seconds.get("tokenize", 0.0)
        if self.verdict is None or not self.points or seconds <= self.points[-1].seconds:
            return self.points
        end = Point(seconds, self.input_bytes, self.documents, self.tokens, self.units_done, 0, self.cores)
        return [*self.points, end]

    @property
    def state(self) -> str:
        """For people: `running`, `lost`, or the verdict."""
        return self.verdict or ("lost" if self.is_silent else "running")


RETRY = "When that is put right, run the same command with --retry-stopped"


class Stopped(BambaError):
    """An earlier attempt ended with `stop`: to try again as it is cannot help, so nothing was done."""

    def __init__(self, run: str, ended_at: str, exit_code: int, reason: str) -> None:
        super().__init__(run, ended_at, exit_code, reason)
        self.run, self.ended_at, self.exit_code, self.reason = run, ended_at, exit_code, reason

    def __str__(self) -> str:
        return (
            f"run {self.run} stopped at {self.ended_at} with exit code {self.exit_code}, and nothing was done now: "
            f"trying again cannot help until somebody acts. It said:\n  {self.reason}\n{RETRY}"
        )


@dataclass(frozen=True)
class Run:
    """What was asked for. `name` is its folder, and a part of its job's submission id."""

    name: str
    command: str
    recipe: str

    @classmethod
    def of(cls, command: str, recipe: Recipe, mirror: str | None, relock: bool) -> "Run":
        """Everything that changes what is made or read; not where and how fast."""
        asked = [command, recipe.model_dump(mode="json", exclude={"network"}), mirror, relock]
        return cls(f"{recipe.name}-{canonical_json.digest(asked)[:12]}", command, recipe.name)


def verdict_of(exit_code: int, error: BaseException | None = None) -> Verdict:
    """`stop` means that the same attempt again would end the same way; what a machine, a disk or a cluster says is
    never that."""
    if exit_code == 0:
        return "complete"
    if isinstance(error, OSError) or (isinstance(error, BambaError) and error.of_environment):
        return "unfinished"
    stops = (UserError.exit_code, BudgetExceeded.exit_code, IntegrityError.exit_code)
    return "stop" if exit_code in stops else "unfinished"


def attempts(store: Store, run: str | None = None) -> Iterator[Status]:
    """Every attempt, of one run or of all: run by run, the run that was written to last comes last, and of a run the
    oldest first. A status that is damaged is made up from the events."""
    folder = f"{RUNS}/{run}" if run else RUNS
    by_run: dict[str, list[Entry]] = {}
    for entry in store.list(folder):
        if entry.path.endswith("/status.json"):
            by_run.setdefault(entry.path.split("/")[-3], []).append(entry)
    # By the store's clock, not the drivers': their clocks may differ, the store has one.
    for entries in sorted(by_run.values(), key=lambda entries: max(entry.modified for entry in entries)):
        for entry in sorted(entries, key=lambda entry: age_key(entry.path.split("/")[-2])):
            try:
                yield read(store, entry.path)
            except CorruptManifest:
                yield _from_events(store, entry)


def age_key(attempt: str) -> tuple[int, str]:
    """Orders the attempts of a run."""
    return (int(attempt), "") if _NUMBER.fullmatch(attempt) else (0, attempt)


def sealed(status: Status) -> bytes:
    return seal(msgspec.to_builtins(status))


def read(store: Store, path: str) -> Status:
    # One byte more than is allowed: the parser then refuses a longer object, without having read all of it.
    data = store.read_range(path, 0, MAX_BYTES + 1)
    raw = canonical_json.loads(data, path, MAX_BYTES)
    if not isinstance(raw, dict) or raw.get("format") != UNSEALED_FORMAT:
        raw = unseal(data, path, MAX_BYTES)
    try:
        status = converted(raw, Status)
    except msgspec.ValidationError as error:
        raise CorruptManifest(path, f"is not the status of an attempt: {error}") from None
    if status.format not in (FORMAT, UNSEALED_FORMAT):
        raise CorruptManifest(path, f"is of format {status.format!r}, not {FORMAT}")
    return status


def _from_events(store: Store, entry: Entry) -> Status:
    run, attempt = entry.path.split("/")[-3:-1]
    status = Status(
        run=run,
        attempt=attempt,
        command="?",
        recipe="?",
        started_at="",
        updated_seconds=entry.modified,
        interval_seconds=10.0,
        phase="damaged",
        reason=DAMAGED,
    )
    for event in events(store, status):
        if event.get("event") == "ended":
            status.phase, status.verdict, status.exit_code = "ended", event["verdict"], event["exit_code"]
            status.reason = f"{event['reason']} ({DAMAGED})"
    return status


def events(store: Store, status: Status) -> Iterator[dict[str, Any]]:
    """What happened in an attempt, in order. In the place of one that is damaged is an event `damaged`."""
    folder = run_folder(status.run, status.attempt)
    for path in sorted(entry.path for entry in store.list(folder) if entry.path.endswith(".jsonl")):
        for line in store.read(path).splitlines(keepends=True):
            try:
                raw = canonical_json.loads(line, path, MAX_BYTES)
                yield unseal(line, path, MAX_BYTES) if SEAL in raw else dict(raw)
            except (CorruptManifest, TypeError, ValueError):
                yield {"at": "", "event": "damaged", "where": path}


def check_found(store: Store, attempts: Sequence[Status]) -> None:
    """Raises DatasetNotFound where neither an attempt nor a version is on record: another place is meant, mostly."""
    if not attempts and not version_marks.known(store).numbers:
        raise DatasetNotFound(f"{store.url}: neither a dataset nor the record of a run is here")


def newest(store: Store, run: str) -> Status | None:
    """The attempt that tells how a run stands: the last one that was started."""
    return max(attempts(store, run), key=lambda status: age_key(status.attempt), default=None)
