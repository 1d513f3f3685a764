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
from ..dataset_build.staged_records import UnitRecord
from ..dataset_build.unit import Progress, Tools, run
from ..observe.progress import Counts
from .rate_limit_actor import SharedBudget

REPORT_SECONDS = 1.0


def run_unit(unit: Unit, job: Job, budget: Any, progress: Any) -> Counts:
    """Run the unit to its end and return its exact counts; its results are in the store."""
    report = Reporter(unit.name, progress)
    progress.started.remote(unit.name)
    store = open_store(job.out)
    tokenizer, backend = _tokenizer(job.out, job.tokenizer_sha256, job.backend)
    fetcher = make_fetcher(job.recipe.network, budget, progress)
    tools = Tools(store, fetcher, tokenizer, backend, scratch_folder(), report)
    record = run(unit, job, tools)
    report.flush()
    return exact_counts(unit, record)


def exact_counts(unit: Unit, record: UnitRecord) -> Counts:
    ledger = record.ledger
    return Counts(unit.size_bytes, ledger.text_bytes, ledger.kept, ledger.tokens, ledger.bad)


def make_fetcher(network: Network, budget: Any, progress: Any) -> Fetcher:
    def on_retry(cause: str, seconds: float) -> None:
        progress.retried.remote(cause)

    return Fetcher(SharedBudget(budget), network.retry_seconds, on_retry)


class Reporter:
    """Adds up what a unit reports and sends it on once a second."""

    def __init__(self, unit: str, progress: Any) -> None:
        self._unit, self._progress = unit, progress
        self._held, self._lines, self._next = Counts(), list[str](), 0.0

    def __call__(self, moved: Progress) -> None:
        counts = Counts(moved.input_bytes, moved.text_bytes, moved.documents, moved.tokens, moved.bad)
        self._held.add(counts)
        self._lines.extend(moved.lines)
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        self._progress.moved.remote(self._unit, self._held, self._lines)
        self._held, self._lines = Counts(), []
        self._next = time.monotonic() + REPORT_SECONDS


@functools.lru_cache(maxsize=2)
def _tokenizer(out: str, digest: str, backend: str) -> tuple[Tokenizer, Backend]:
    """Kept for the life of the worker: loading takes a good part of a second."""
    store: Store = open_store(out)
    data = store.read(tokenizer_path(digest))
    if sha256(data) != digest:
        raise CorruptManifest(tokenizer_path(digest), "does not have the sha256 of its name")
    tokenizer = Tokenizer(data)
    return tokenizer, tokenizer.backend(backend)
