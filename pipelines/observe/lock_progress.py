"""How far the locking of inputs is, on stderr: a bar on a terminal, elsewhere a line now and then.

A plain host is asked for every name, some 2,400 for Dolma, within the request budget: that takes minutes.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bamba_data.terminal import console

from .logs import people_log

Tick = Callable[[int, int], None]
INTERVAL_SECONDS = 10.0


def silent(done: int, total: int) -> None:
    """For those who do not watch."""


@contextmanager
def shown(interval_seconds: float | None = None) -> Iterator[Tick]:
    """`tick(done, total)`, which may be called by any thread, one at a time."""
    if not sys.stderr.isatty():
        yield _lines(INTERVAL_SECONDS if interval_seconds is None else interval_seconds)
        return
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("lock", total=None)
        # rich's Progress has a lock of its own: the threads that look up names may all call it.
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(interval_seconds: float) -> Tick:
    next_at = time.monotonic() + interval_seconds

    def tick(done: int, total: int) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + interval_seconds
            people_log().info("locking: %s of %s inputs looked up", f"{done:,}", f"{total:,}")

    return tick
