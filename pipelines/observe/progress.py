"""How far a build is: kept by an actor that the workers report to, shown as bars on a terminal and as one JSON line
an interval elsewhere."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Protocol

import structlog

WINDOW_SECONDS = 60.0


@dataclass(slots=True)
class Counts:
    """Of one unit so far, or of all."""

    input_bytes: int = 0
    text_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    bad: int = 0

    def add(self, other: "Counts") -> None:
        self.input_bytes += other.input_bytes
        self.text_bytes += other.text_bytes
        self.documents += other.documents
        self.tokens += other.tokens
        self.bad += other.bad


@dataclass(slots=True)
class SourceCounts(Counts):
    """Of the finished units of one source."""

    units: int = 0


@dataclass(slots=True)
class Snapshot:
    """Everything that a person or a dashboard asks of a running build."""

    units_done: int = 0
    units_total: int = 0
    units_failed: int = 0
    input_bytes_total: int = 0
    running: int = 0
    cores: int = 0
    counts: Counts = field(default_factory=Counts)
    by_source: dict[str, SourceCounts] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    throttled_seconds: float = 0.0
    lines: list[str] = field(default_factory=list)


class ProgressKeeper:
    """Runs as an actor. A unit's counts are replaced, not added, when it is tried again."""

    def __init__(self) -> None:
        self._units: dict[str, Counts] = {}
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._by_source: dict[str, SourceCounts] = {}
        self._done_counts = Counts()
        self._retries: dict[str, int] = {}
        self._lines: list[str] = []
        self._places: dict[str, str] = {}

    def started(self, unit: str) -> None:
        self._units[unit] = Counts()

    def moved(self, unit: str, counts: Counts, lines: list[str]) -> None:
        self._lines.extend(lines)
        if unit not in self._done:  # a last report may come after the end, which the driver tells
            self._units.setdefault(unit, Counts()).add(counts)

    def ended(self, unit: str, exact: Counts | None) -> None:
        self._units.pop(unit, None)
        self._places.pop(unit, None)
        if exact is None:
            self._failed.add(unit)
        elif unit not in self._done:
            self._done.add(unit)
            self._done_counts.add(exact)
            of_source = self._by_source.setdefault(unit.partition("/")[0], SourceCounts())
            of_source.add(exact)
            of_source.units += 1

    def placed(self, unit: str, node: str) -> None:
        """It runs on this node."""
        self._places[unit] = node

    def place_of(self, unit: str) -> str | None:
        return self._places.get(unit)

    def remark(self, line: str) -> None:
        self._lines.append(line)

    def retried(self, cause: str) -> None:
        self._retries[cause] = self._retries.get(cause, 0) + 1

    def snapshot(self) -> Snapshot:
        total = Counts()
        for counts in (*self._units.values(), self._done_counts):
            total.add(counts)
        lines, self._lines = self._lines, []
        return Snapshot(
            units_done=len(self._done),
            units_failed=len(self._failed),
            by_source=self._by_source,
            running=len(self._units),
            counts=total,
            retries=dict(self._retries),
            lines=lines,
        )


class Unheard:
    """Takes the place of the keeper's handle for the second copy of a unit: the first one is counted already."""

    def __getattr__(self, name: str) -> "Unheard":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *arguments: object) -> None:
        pass


class Meter:
    """Rates over the last minute, and a time of arrival from the bytes that are left."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, Counts]] = deque()

    def rates(self, snapshot: Snapshot) -> Mapping[str, float]:
        now, counts = time.monotonic(), snapshot.counts
        self._points.append((now, counts))
        while len(self._points) > 2 and now - self._points[0][0] > WINDOW_SECONDS:
            self._points.popleft()
        then, before = self._points[0]
        seconds = max(now - then, 1e-9)
        bytes_a_second = (counts.input_bytes - before.input_bytes) / seconds
        left = max(0, snapshot.input_bytes_total - counts.input_bytes)
        return {
            "documents_per_second": max(0.0, (counts.documents - before.documents) / seconds),
            "tokens_per_second": max(0.0, (counts.tokens - before.tokens) / seconds),
            "input_bytes_per_second": max(0.0, bytes_a_second),
            "eta_seconds": left / bytes_a_second if bytes_a_second > 0 else float("inf"),
        }


class Display(Protocol):
    """A context manager that is told how far things are."""

    def show(self, snapshot: Snapshot) -> None: ...

    def __enter__(self) -> "Display": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class JsonLines:
    """One line an interval, machine-readable, on stdout: what `ray job logs` shows."""

    def __init__(self, phase: str, interval_seconds: float) -> None:
        self._phase, self._interval = phase, interval_seconds
        self._next = 0.0
        self._meter = Meter()
        self._log = json_log()
        self._last: Snapshot | None = None

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._last is not None:
            self._write(self._last)

    def show(self, snapshot: Snapshot) -> None:
        for line in snapshot.lines:
            self._log.warning("remark", phase=self._phase, text=line)
        self._last = snapshot
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._interval
            self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        rates = {name: round(value, 1) if value < 1e15 else None for name, value in self._meter.rates(snapshot).items()}
        self._log.info(
            "progress",
            phase=self._phase,
            units_done=snapshot.units_done,
            units_total=snapshot.units_total,
            in_flight=snapshot.running,
            input_bytes_total=snapshot.input_bytes_total,
            **asdict(snapshot.counts),
            **rates,
            retries=snapshot.retries,
            throttled_seconds=round(snapshot.throttled_seconds, 1),
        )


class Bars:
    """A bar over the input bytes, and the rates beside it."""

    def __init__(self, phase: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[rates]}"),
        )
        self._task = self._progress.add_task(phase, total=None, rates="")
        self._meter = Meter()

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, snapshot: Snapshot) -> None:
        for line in snapshot.lines:
            self._progress.console.print(f"[yellow]{line}")
        rates, counts = self._meter.rates(snapshot), snapshot.counts
        parts = [
            f"units {snapshot.units_done}/{snapshot.units_total}",
            f"{counts.documents:,} docs ({rates['documents_per_second']:,.0f}/s)",
            f"{counts.tokens / 1e6:,.1f} M tokens ({rates['tokens_per_second'] / 1e6:,.2f} M/s)",
        ]
        if counts.bad:
            parts.append(f"[red]{counts.bad:,} bad")
        if retries := sum(snapshot.retries.values()):
            parts.append(f"{retries} retries")
        self._progress.update(
            self._task,
            total=snapshot.input_bytes_total,
            completed=min(counts.input_bytes, snapshot.input_bytes_total),
            rates=", ".join(parts),
        )


def json_log() -> Any:
    """A logger that writes one JSON line an event on stdout."""
    return structlog.wrap_logger(
        structlog.PrintLogger(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
    )


def display(phase: str, is_terminal: bool, interval_seconds: float) -> Any:
    return Bars(phase) if is_terminal else JsonLines(phase, interval_seconds)
