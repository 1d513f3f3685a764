"""The download as a job of its own: a verified raw mirror of a recipe's inputs, under the same lock.

    python -m pipelines.download RECIPE --out URL           or: bamba-data download RECIPE --out URL
    bamba-data build RECIPE --out URL --mirror URL          builds from it, with no other network

A file is in the mirror once it was read to its end and had the size and the sha256 of the lock (or, where the host
knows none, the one that is learned now and binds every build). `mirror.json` is written last: without it the
mirror is not finished, and the same command goes on where it was.
"""

from pathlib import Path
from typing import Any

from bamba_data import canonical_json
from bamba_data.errors import BambaError, Unfinished
from bamba_data.locking import lock as locks
from bamba_data.locking.exclusions import quarantined
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Network, Recipe
from bamba_data.records import seal, unseal
from bamba_data.storage.locked_file import NOT_ASKED, Facts, LockedFile
from bamba_data.storage.paths import stored_name
from bamba_data.storage.store import Store, open_store

from ..observe.counters import Counters
from ..observe.display import Display
from ..ray_jobs.executor import Options
from ..ray_jobs.file_tasks import FileTask, for_each_file
from ..ray_jobs.worker import Reporter, make_fetcher
from .mirror_file import write_mirror

RECORDS = "_mirror"
RECORD_FORMAT = "bamba-mirrored/2"
MAX_RECORD_BYTES = 1 << 16
FETCHES_A_CORE = 4  # a fetch waits for the network most of the time


def download(recipe: Recipe, folder: Path, lock: Lock, to: str, options: Options, display: Display) -> Lock:
    """Mirror every file of the lock at `to`.

    Returns:
        The lock with all sha256s, which then lies in the mirror.

    Raises:
        Failed: Some files could not be mirrored; the others are done and kept.
    """
    store = open_store(to)

    def is_done(file: LockedFile) -> bool:
        return mirrored(store, file) is not None

    left_out = quarantined(recipe.bad_input.quarantine, (file.key for file in lock.files))
    wanted = [file for file in lock.files if file.key not in left_out]
    for_each_file(wanted, is_done, bring, to, recipe.network, options, display, task_cores=1 / FETCHES_A_CORE)
    return _finish(locks.request_key(recipe, folder), lock, left_out, store)


def bring(task: FileTask, to: str, network: Network, rate_limit: Any, progress: Any) -> Counters:
    """Runs in a worker: stream one file into the mirror, verified, then leave its record."""
    file, store = task.file, open_store(to)
    report = Reporter(task.name, progress)
    fetcher = make_fetcher(network, rate_limit, progress)
    with fetcher.stream(file) as stream, store.writer(stored_name(file.key)) as out:
        for chunk in stream.chunks():
            out.write(chunk)
            report(Counters(input_bytes=len(chunk)))
    learned = {"size_bytes": stream.bytes_read, "sha256": stream.sha256}
    # After the file: a kill in between costs one fetch, and never leaves a record of what is not there.
    record = {"format": RECORD_FORMAT, "identity": _identity(file), "learned": learned}
    store.put(_record_path(file), seal(record))
    return Counters(input_bytes=stream.bytes_read)


def mirrored(store: Store, file: LockedFile) -> Facts | None:
    """What the mirror has of a file: None unless its record is of this very file and the object has its size."""
    path = _record_path(file)
    try:
        data = store.read(path)
        record = canonical_json.loads(data, path, MAX_RECORD_BYTES)
        if record.keys() == {"identity", "size_bytes", "sha256"}:  # of before 2026-11-28
            learned = record
        else:
            record = unseal(data, path, MAX_RECORD_BYTES)
            learned = record["learned"]
        facts = Facts(int(learned["size_bytes"]), None, str(learned["sha256"]))
        is_same = record["identity"] == _identity(file)
    except (FileNotFoundError, BambaError, KeyError, TypeError, ValueError, AttributeError):
        return None
    stored = store.stat(stored_name(file.key))
    return facts if is_same and stored is not None and stored.size_bytes == facts.size_bytes else None


def _finish(request: str, lock: Lock, left_out: set[str], store: Store) -> Lock:
    files = []
    for file in lock.files:
        if file.key in left_out:
            files.append(LockedFile(file.source, file.path, file.url, NOT_ASKED))
            continue
        facts = mirrored(store, file)
        if facts is None:
            raise Unfinished(f"{store.url}: {file.key} is not in the mirror yet; run the same command again")
        files.append(
            LockedFile(
                file.source, file.path, file.url, file.facts._replace(sha256=facts.sha256, size_bytes=facts.size_bytes)
            )
        )
    complete = Lock(lock.sources, lock.revisions, tuple(files))
    write_mirror(store, request, complete)
    return complete


def _identity(file: LockedFile) -> list[Any]:
    """What makes it this file: not the sha256, which may be learned only now."""
    return [file.url, file.facts.size_bytes, file.facts.etag]


def _record_path(file: LockedFile) -> str:
    return f"{RECORDS}/{stored_name(file.key)}.json"
