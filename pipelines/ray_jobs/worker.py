"""What runs in a Ray worker: one unit, with tools made for this process."""

import functools
import time
from typing import Any

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import tokenizer_path
from bamba_data.recipe import Network
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.tokenizer import Backend, Tokenizer

from ..dataset_build.plan import Job, Unit
from ..dataset_build.unit import Tools, run
from ..observe.counters import Counters
from .rate_limit_actor import SharedBudget

REPORT_SECONDS = 1.0  # of each worker: a report a batch would be many more, and nobody looks so often


def run_unit(unit: Unit, job: Job, rate_limit: Any, progress: Any) -> Counters:
    """Run the unit to its end and return what it came to; its results are in the store. `rate_limit` and `progress` are
    the handles of the actors that all tasks share."""
    report = Reporter(unit.name, progress)
    progress.started.remote(unit.name)
    store = open_store(job.out)
    tokenizer, backend = _tokenizer(job.out, job.tokenizer_sha256, job.backend)
    fetcher = make_fetcher(job.recipe.network, rate_limit, progress)
    tools = Tools(store, fetcher, tokenizer, backend, scratch_folder(), report, progress.remark.remote)
    record = run(unit, job, tools)
    report.flush()
    return Counters.of(record.ledger, unit.size_bytes)


def make_fetcher(network: Network, rate_limit: Any, progress: Any) -> Fetcher:
    def on_retry(cause: str, seconds: float) -> None:
        progress.retried.remote(cause)

    return Fetcher(SharedBudget(rate_limit), network.retry_seconds, on_retry)


class Reporter:
    """Adds up what a unit reports and sends it on once a second."""

    def __init__(self, unit: str, progress: Any) -> None:
        self._unit, self._progress = unit, progress
        self._unsent, self._next_at = Counters(), 0.0

    def __call__(self, moved: Counters) -> None:
        self._unsent += moved
        if time.monotonic() >= self._next_at:
            self.flush()

    def flush(self) -> None:
        self._progress.moved.remote(self._unit, self._unsent)
        self._unsent, self._next_at = Counters(), time.monotonic() + REPORT_SECONDS


@functools.lru_cache(maxsize=2)
def _tokenizer(out: str, digest: str, backend: str) -> tuple[Tokenizer, Backend]:
    """Kept for the life of the worker: loading takes a good part of a second."""
    store: Store = open_store(out)
    data = store.read(tokenizer_path(digest))
    if sha256(data) != digest:
        raise CorruptManifest(tokenizer_path(digest), "does not have the sha256 of its name")
    tokenizer = Tokenizer(data)
    return tokenizer, tokenizer.backend(backend)
