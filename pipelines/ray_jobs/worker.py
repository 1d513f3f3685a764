"""What every task needs in its worker: a fetcher within the cluster's request budget, and reports of how far it is."""

import time
from typing import Any

from bamba_data.recipe import Network
from bamba_data.storage.fetch import Fetcher

from ..observe.counters import Counters
from .rate_limit_actor import SharedBudget

REPORT_SECONDS = 1.0  # of each worker: a report a batch would be many more, and nobody looks so often


def make_fetcher(network: Network, rate_limit: Any, progress: Any) -> Fetcher:
    """`rate_limit` and `progress` are the handles of the actors that all tasks share."""

    def on_retry(cause: str, seconds: float) -> None:
        progress.retried.remote(cause)

    return Fetcher(SharedBudget(rate_limit), network.retry_seconds, on_retry)


class Reporter:
    """Adds up what a task reports and sends it on once a second; `flush` sends the rest."""

    def __init__(self, task: str, progress: Any) -> None:
        self._task, self._progress = task, progress
        self._unsent, self._next_at = Counters(), 0.0

    def __call__(self, moved: Counters) -> None:
        self._unsent += moved
        if time.monotonic() >= self._next_at:
            self.flush()

    def flush(self) -> None:
        self._progress.moved.remote(self._task, self._unsent)
        self._unsent, self._next_at = Counters(), time.monotonic() + REPORT_SECONDS
