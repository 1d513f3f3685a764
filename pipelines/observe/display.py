"""How far a job is, shown to people: bars on a terminal, one JSON line an interval elsewhere."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from .counters import Counters
from .logs import json_log
from .progress import Snapshot

WINDOW_SECONDS = 60.0


class Display:
    """A context manager that is told how far things are; this one shows nothing. It may be entered again, when a build
    runs units a second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, snapshot: Snapshot) -> None: ...


class DisplayAround(Display):
    """Looks at every snapshot, and hands it on to the `display` within."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(kind, error, trace)

    def show(self, snapshot: Snapshot) -> None:
        self._display.show(snapshot)


class Meter:
    """Rates over the last minute, and a time of arrival from the bytes that are left."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, Counters]] = deque()

    def rates(self, snapshot: Snapshot) -> Mapping[str, float]:
        """By name, which says the unit. `eta_seconds` is infinite while nothing moves."""
        now, counts = time.monotonic(), snapshot.counts
        # At two snapshots a second some 120 points, whatever the length of the job.
        self._points.append((now, counts))
        while len(self._points) > 2 and now - self._points[0][0] > WINDOW_SECONDS:
            self._points.popleft()
        since, before = self._points[0]
        seconds, moved = max(now - since, 1e-9), counts - before
        left = max(0, snapshot.planned.input_bytes - counts.input_bytes)
        # A unit that is tried again takes its counts back: no rate is below zero for that.
        return {
            "documents_per_second": max(0.0, moved.documents / seconds),
            "tokens_per_second": max(0.0, moved.tokens / seconds),
            "input_bytes_per_second": max(0.0, moved.input_bytes / seconds),
            "eta_seconds": left * seconds / moved.input_bytes if moved.input_bytes > 0 else float("inf"),
        }


class JsonLines(Display):
    """One line an interval, machine-readable, on stdout: what `ray job logs` shows."""

    def __init__(self, phase: str, interval_seconds: float) -> None:
        self._phase, self._interval = phase, interval_seconds
        self._next_at = 0.0
        self._meter, self._log = Meter(), json_log()
        self._last: Snapshot | None = None

    def __exit__(self, *exc: object) -> None:
        if self._last is not None:
            self._write(self._last)

    def show(self, snapshot: Snapshot) -> None:
        for line in snapshot.lines:
            self._log.warning("remark", phase=self._phase, text=line)
        self._last = snapshot
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + self._interval
            self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        counts = asdict(snapshot.counts)
        fields: dict[str, Any] = {
            "phase": self._phase,
            "units_done": counts.pop("units"),
            "units_total": snapshot.planned.units,
            "in_flight": snapshot.running,
            "input_bytes_total": snapshot.planned.input_bytes,
            **counts,
        }
        for name, rate in self._meter.rates(snapshot).items():
            fields[name] = round(rate, 1) if rate < 1e15 else None  # JSON has no infinity
        throttled_seconds = round(snapshot.throttled_seconds, 1)
        self._log.info("progress", **fields, retries=snapshot.retries, throttled_seconds=throttled_seconds)


class Bars(Display):
    """A bar over the input bytes with the time that is left, and below it units, documents and tokens with their rates:
    lines that fit a terminal of 80 columns."""

    def __init__(self, phase: str) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        from bamba_data.terminal import console

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=console(),
        )
        self._task = self._progress.add_task(phase, total=None)
        self._counts = Text("")
        self._live = Live(Group(self._progress, self._counts), console=self._progress.console, refresh_per_second=4)
        self._meter = Meter()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        from rich.markup import escape

        for line in snapshot.lines:
            self._live.console.print(f"[yellow]{escape(line)}")
        counts, total_bytes = snapshot.counts, snapshot.planned.input_bytes
        self._counts.plain = f"  {told(snapshot, self._meter.rates(snapshot))}"
        self._progress.update(self._task, total=total_bytes, completed=min(counts.input_bytes, total_bytes))


def told(snapshot: Snapshot, rates: Mapping[str, float]) -> str:
    """Units, documents and tokens with their rates, in some 70 characters; bad records and retries if there are any."""
    counts = snapshot.counts
    parts = [f"units {counts.units:,}/{snapshot.planned.units:,}"]
    if counts.documents:  # a download has none
        parts += [
            f"{counts.documents:,} docs ({rates['documents_per_second']:,.0f}/s)",
            f"{counts.tokens / 1e6:,.1f} M tokens ({rates['tokens_per_second'] / 1e6:,.2f} M/s)",
        ]
    if counts.bad:
        parts.append(f"{counts.bad:,} bad")
    if retries := sum(snapshot.retries.values()):
        parts.append(f"{retries:,} retries")
    return ", ".join(parts)


def display(phase: str, is_terminal: bool, interval_seconds: float) -> Display:
    return Bars(phase) if is_terminal else JsonLines(phase, interval_seconds)
