"""The record of one attempt while it works: status, events and verdict, written to the object store as it goes.

    with RunLog(store, run) as log:               raises runs.Stopped if an earlier attempt ended with `stop`
        log.phase("tokenize")
        work(log.watching(display))               every snapshot of the progress goes into the status too
        log.published(version, manifest)
                                                  an exception becomes the verdict, and goes on its way

A thread writes, so that a slow store never holds up the work; a store that cannot take the record is said on stderr
and changes nothing else, and the events that it did not take are offered again. No secret of the environment is ever
in what is written.
"""

import contextlib
import datetime
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from bamba_data.errors import BambaError, UserError
from bamba_data.exit_codes import INTERRUPTED, exit_code_of
from bamba_data.format.layout import events_path, status_path
from bamba_data.format.manifest import Manifest
from bamba_data.records import seal
from bamba_data.storage.store import Store, open_store

from .counters import Counters
from .display import Display, DisplayAround
from .logs import json_log, people_log
from .progress import Snapshot
from .runs import RETRY, Point, Run, Status, Stopped, age_key, newest, sealed, verdict_of

INTERVAL_SECONDS = 10.0
MAX_POINTS = 240  # of the curve in a status: when it is full every second one goes
MAX_REASON_CHARS = 4000
_SECRET_NAMES = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "CREDENTIAL", "API_KEY")


class RunLog:
    """Of one attempt. All methods may be called from any thread.

    Args:
        store: Where the dataset (or mirror, or training run) goes.
        run: What was asked for.
        retry_stopped: Begin although an earlier attempt ended with `stop`.
        interval_seconds: Between writes of the status; one that is older than 6 intervals counts as lost.
    """

    def __init__(
        self,
        store: Store,
        run: Run,
        retry_stopped: bool = False,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._store, self._run, self._retry_stopped, self._interval = store, run, retry_stopped, interval_seconds
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._events: list[dict[str, Any]] = []
        self._event_files = 0
        self._unwritten: deque[tuple[str, bytes]] = deque()  # files of events that the store has not taken yet
        self._stride_seconds = interval_seconds
        self._said_unwritten = False

    def __enter__(self) -> Self:
        before = newest(self._store, self._run.name)
        if before is not None and before.verdict == "stop" and not self._retry_stopped:
            ended_at = _iso(before.updated_seconds)
            raise Stopped(self._run.name, ended_at, before.exit_code or UserError.exit_code, before.reason)
        self._started = self._phase_started = self._last_shown = time.monotonic()
        self.status = Status(
            run=self._run.name,
            attempt="",
            command=self._run.command,
            recipe=self._run.recipe,
            started_at=_iso(time.time()),
            updated_seconds=time.time(),
            interval_seconds=self._interval,
            place=place(),
        )
        self._take_number(before)
        self.event("started", after=before.attempt if before else None)
        self._write()
        # A daemon: it must not hold up an interpreter that ends by an error before __exit__ could stop it.
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name="run log")
        self._thread.start()
        return self

    def _take_number(self, before: Status | None) -> None:
        """The next number that nobody has; where the store does not answer, the next one as far as we know."""
        number = age_key(before.attempt)[0] if before else 0
        while True:
            number += 1
            self.status.attempt = f"{number:06d}"
            path, data = status_path(self._run.name, self.status.attempt), sealed(self.status)
            try:
                # The reply of our own create may be lost: then it is refused the second time, and holds our bytes.
                if self._store.create(path, data) or self._store.read(path) == data:
                    return
            except (BambaError, OSError):
                # No number, and so older than any that is: a later attempt is never hidden behind this one.
                self.status.attempt += secrets.token_hex(3)
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._close_phase()
            self.status.phase = "ended"
            self.status.exit_code = exit_code_of(error)
            self.status.verdict = verdict_of(self.status.exit_code, error)
            self.status.reason = "" if error is None else reason_of(error)
            if error is not None and self.status.verdict == "stop":
                error.add_note(RETRY)  # the process edge prints notes below the message
            self.status.in_flight = 0
        self.event("ended", verdict=self.status.verdict, exit_code=self.status.exit_code, reason=self.status.reason)
        self._ended.set()
        self._thread.join()
        self._write()

    def phase(self, name: str, **facts: Any) -> None:
        """The work goes into its next phase."""
        with self._lock:
            self._close_phase()
            self.status.phase = name
        self.event("phase", phase=name, **facts)

    def planned(self, plan: str, units_total: int, units_done: int, input_bytes: int) -> None:
        with self._lock:
            self.status.plan = plan
            self.status.units_total, self.status.units_done = units_total, units_done
            self.status.input_bytes_total = input_bytes
        self.phase("tokenize", plan=plan, units=units_total, units_finished=units_done)

    def published(self, version: int, manifest: Manifest) -> None:
        with self._lock:
            self.status.dataset, self.status.version = manifest.digest, version
            self.status.shard_bytes = sum(source.size_bytes for source in manifest.sources)
            self.status.left_out = manifest.totals.left_out
        self.event("published", dataset=manifest.digest, version=version)

    def event(self, name: str, **facts: Any) -> None:
        """`facts` are plain values, small, and no secrets."""
        with self._lock:
            self._events.append({"at": _iso(time.time()), "event": name, **facts})

    def watching(self, display: Display) -> "Watching":
        return Watching(self, display)

    def saw(self, snapshot: Snapshot) -> None:
        """Take over where the work is."""
        now, counts = time.monotonic(), snapshot.counts
        with self._lock:
            status = self.status
            seconds = now - self._last_shown
            self._last_shown = now
            status.core_seconds += seconds * snapshot.cores
            status.unit_seconds += seconds * snapshot.running
            status.units_done, status.units_failed = counts.units, snapshot.units_failed
            status.in_flight, status.cores = snapshot.running, snapshot.cores
            for name in ("input_bytes", "text_bytes", "documents", "tokens", "bad"):
                setattr(status, name, getattr(counts, name))
            status.retries, status.throttled_seconds = dict(snapshot.retries), snapshot.throttled_seconds
            status.sources = {name: _of_source(of_source) for name, of_source in snapshot.by_source.items()}
            self._add_point(now - self._started)
        for line in snapshot.lines:
            self.event("remark", text=masked(line))

    def began_to_watch(self) -> None:
        self._last_shown = time.monotonic()

    def _add_point(self, seconds: float) -> None:
        status = self.status
        if status.points and seconds - status.points[-1].seconds < self._stride_seconds:
            return
        if len(status.points) >= MAX_POINTS:
            # Half the points, at twice the distance: the curve spans the run, and its record stays small.
            status.points = status.points[::2]
            self._stride_seconds *= 2
        done, flying, cores = status.units_done, status.in_flight, status.cores
        status.points.append(
            Point(round(seconds, 1), status.input_bytes, status.documents, status.tokens, done, flying, cores)
        )

    def _close_phase(self) -> None:
        now, status = time.monotonic(), self.status
        spent = status.phase_seconds.get(status.phase, 0.0) + now - self._phase_started
        status.phase_seconds[status.phase] = round(spent, 3)
        self._phase_started = now

    def _keep_writing(self) -> None:
        while not self._ended.wait(self._interval):
            self._write()

    def _write(self) -> None:
        """Events first: a status then never says of an end that no event tells."""
        run, attempt = self.status.run, self.status.attempt
        with self._lock:
            self.status.updated_seconds = time.time()
            status = sealed(self.status)
            if self._events:
                self._event_files += 1
                lines = b"".join(map(seal, self._events))
                self._unwritten.append((events_path(run, attempt, self._event_files), lines))
                self._events = []
        try:
            while self._unwritten:
                self._store.put(*self._unwritten[0])
                self._unwritten.popleft()
            self._store.put(status_path(run, attempt), status)
        except (BambaError, OSError) as error:
            if not self._said_unwritten:
                self._said_unwritten = True
                people_log().warning("the record of this run cannot be written, the work goes on: %s", reason_of(error))


@contextlib.contextmanager
def recorded(run: Run, url: str, retry_stopped: bool, is_terminal: bool, interval_seconds: float) -> Iterator[RunLog]:
    """A log in the store at `url`; off a terminal an attempt that fails ends with a line of its verdict, too.

    Raises:
        UserError: The submitter says in BAMBA_RUN that it means another run: this machine reads the recipe otherwise.
        Stopped: An earlier attempt ended with `stop`, and `retry_stopped` is not set.
    """
    try:
        meant = os.environ.get("BAMBA_RUN", run.name)
        if meant != run.name:
            raise UserError(
                f"this is run {run.name}, the submitter means {meant}: its recipe, or its version of bamba-data, is "
                "another one than here; submit with the version of the cluster's image, or with --working-dir"
            )
        with RunLog(open_store(url), run, retry_stopped, interval_seconds) as log:
            yield log
    except BaseException as error:
        if not is_terminal:
            code = exit_code_of(error)
            json_log().error(
                "verdict", verdict=verdict_of(code, error), exit_code=code, run=run.name, reason=reason_of(error)
            )
        raise


class Watching(DisplayAround):
    """A display whose snapshots go into the status, too."""

    def __init__(self, log: RunLog, display: Display) -> None:
        super().__init__(display)
        self._log = log

    def __enter__(self) -> Self:
        self._log.began_to_watch()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is None:
            self._log.phase("publish")

    def show(self, snapshot: Snapshot) -> None:
        self._log.saw(snapshot)
        super().show(snapshot)


def reason_of(error: BaseException) -> str:
    """What it says, short enough for a record; an exception that is none of ours only says its type."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    known = isinstance(error, BambaError | OSError)
    text = str(error) if known else f"{type(error).__name__} (see the log of the job)"
    return masked(text)[:MAX_REASON_CHARS]


def masked(text: str) -> str:
    """Without the values of those variables of the environment whose names sound of a secret."""
    for name, value in os.environ.items():
        # A shorter value may be a part of any word ("true", "1"), and would mask half of the text.
        if len(value) >= 6 and any(part in name.upper() for part in _SECRET_NAMES) and value in text:
            text = text.replace(value, f"<{name}>")
    return text


def place() -> dict[str, str]:
    """Where this attempt runs, as far as the environment tells: pod, node, job."""
    names = {"pod": "HOSTNAME", "cluster": "RAY_CLUSTER_NAME", "job": "BAMBA_SUBMISSION_ID", "image": "BAMBA_IMAGE"}
    return {what: os.environ[name] for what, name in names.items() if os.environ.get(name)}


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _of_source(counts: Counters) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("documents", "tokens", "bad", "units")}
