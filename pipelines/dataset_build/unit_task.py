"""A unit as a Ray task: it runs in a worker, with tools made for this process."""

import functools
from typing import Any

from bamba_data.canonical_json import sha256
from bamba_data.errors import CorruptManifest
from bamba_data.format.layout import tokenizer_path
from bamba_data.no_pandas import spare_pandas
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.tokenizer import Backend, Tokenizer

from ..observe.counters import Counters
from ..ray_jobs.worker import Reporter, make_fetcher
from .plan import Job, Unit
from .unit import Tools, run


def run_unit(unit: Unit, job: Job, rate_limit: Any, progress: Any) -> Counters:
    """Run the unit to its end and return what it came to; its results are in the store. `rate_limit` and `progress` are
    the handles of the actors that all tasks share. Raises as `unit.run`."""
    spare_pandas()
    report = Reporter(unit.name, progress)
    tokenizer, backend = _tokenizer(job.out, job.tokenizer_sha256, job.backend)
    fetcher = make_fetcher(job.recipe.network, rate_limit, progress)
    store, remark = open_store(job.out), progress.remark.remote
    record = run(unit, job, Tools(store, fetcher, tokenizer, backend, scratch_folder(), report, remark))
    report.flush()
    return Counters.of(record.ledger, unit.size_bytes)


@functools.lru_cache(maxsize=2)
def _tokenizer(out: str, digest: str, backend: str) -> tuple[Tokenizer, Backend]:
    """Kept for the life of the worker: loading takes a good part of a second."""
    store: Store = open_store(out)
    data = store.read(tokenizer_path(digest))
    if sha256(data) != digest:
        raise CorruptManifest(tokenizer_path(digest), "does not have the sha256 of its name")
    tokenizer = Tokenizer(data)
    return tokenizer, tokenizer.backend(backend)
