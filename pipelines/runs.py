"""What was asked for, and how it stands: read from the object store, where it outlives every cluster.

    _bamba/runs/<run>/<attempt>/status.json          the newest state of one attempt, replaced every few seconds
    _bamba/runs/<run>/<attempt>/events-000001.jsonl  what happened, in order; a file is never written twice

A *run* is what was asked for: the same recipe, mirror and command have the same name on every machine. An *attempt* is
one process that works on it; a scheduler that tries again makes a new one. pipelines.journal writes them.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bamba_data import canonical
from bamba_data.errors import BambaError, BudgetExceeded, CorruptManifest, IntegrityError, UserError
from bamba_data.recipe import Recipe
from bamba_data.store import Store

FOLDER = "_bamba/runs"
FORMAT = "bamba-run/1"
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
    of it in which a unit was running.
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
    points: list[Point] = []
    place: dict[str, str] = {}

    @property
    def is_silent(self) -> bool:
        """It has no verdict, and has not been heard of for so long that it cannot be running."""
        silent_seconds = time.time() - self.updated_seconds
        return self.verdict is None and silent_seconds > SILENT_INTERVALS * max(self.interval_seconds, 10.0)

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
        return cls(f"{recipe.name}-{canonical.digest(asked)[:12]}", command, recipe.name)


def verdict_of(exit_code: int) -> Verdict:
    """`stop` means that the same attempt again would end the same way."""
    if exit_code == 0:
        return "complete"
    stops = (UserError.exit_code, BudgetExceeded.exit_code, IntegrityError.exit_code)
    return "stop" if exit_code in stops else "unfinished"


def attempts(store: Store, run: str | None = None) -> Iterator[Status]:
    """Every attempt, of one run or of all, oldest first by the name of its folder."""
    folder = f"{FOLDER}/{run}" if run else FOLDER
    found = [entry.path for entry in store.list(folder) if entry.path.endswith("/status.json")]
    for path in sorted(found, key=lambda path: path.split("/")[-2]):
        yield read(store, path)


def read(store: Store, path: str) -> Status:
    raw = canonical.loads(store.read_range(path, 0, MAX_BYTES + 1), path, MAX_BYTES)
    try:
        found = msgspec.convert(raw, Status)
    except msgspec.ValidationError as error:
        raise CorruptManifest(path, f"is not the status of an attempt: {error}") from None
    if found.format != FORMAT:
        raise CorruptManifest(path, f"is of format {found.format!r}, not {FORMAT}")
    return found


def events(store: Store, status: Status) -> Iterator[dict[str, Any]]:
    """What happened in an attempt, in order."""
    folder = f"{FOLDER}/{status.run}/{status.attempt}"
    for path in sorted(entry.path for entry in store.list(folder) if entry.path.endswith(".jsonl")):
        for line in store.read(path).splitlines():
            yield dict(canonical.loads(line, path, MAX_BYTES))


def newest(store: Store, run: str) -> Status | None:
    """The attempt that tells how a run stands: the last one that was started."""
    return max(attempts(store, run), key=lambda status: status.attempt, default=None)
