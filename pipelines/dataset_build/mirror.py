"""The download as a job of its own: a verified raw mirror of a recipe's inputs, under the same lock.

    python -m pipelines.download RECIPE --out URL           or: bamba-data download RECIPE --out URL
    bamba-data build RECIPE --out URL --mirror URL          builds from it, with no other network

A file is in the mirror once it was read to its end and had the size and the sha256 of the lock (or, where the host
knows none, the one that is learned now and binds every build). `mirror.json` is written last: without it the
mirror is not finished, and the same command goes on where it was.
"""

from pathlib import Path
from typing import Any

from bamba_data.errors import BambaError, Unfinished
from bamba_data.locking.exclusions import quarantined
from bamba_data.locking.lock import Lock
from bamba_data.recipe import Network, Recipe
from bamba_data.storage.locked_file import NOT_ASKED, LockedFile
from bamba_data.storage.paths import stored_name
from bamba_data.storage.store import Store, open_store

from ..observe.counters import Counters
from ..observe.display import Display
from ..ray_jobs.executor import Options
from ..ray_jobs.file_tasks import FileTask, for_each_file
from ..ray_jobs.worker import Reporter, make_fetcher
from .mirror_file import Learned, MirroredFile, identity_of, mirrored_path, request_of, write_mirror

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
    return _finish(request_of(recipe, folder), lock, left_out, store)


def bring(task: FileTask, to: str, network: Network, rate_limit: Any, progress: Any) -> Counters:
    """Runs in a worker: stream one file into the mirror, verified, then leave its record."""
    file, store = task.file, open_store(to)
    report = Reporter(task.name, progress)
    fetcher = make_fetcher(network, rate_limit, progress)
    with fetcher.stream(file) as stream, store.writer(stored_name(file.key)) as out:
        for chunk in stream.chunks():
            out.write(chunk)
            report(Counters(input_bytes=len(chunk)))
    # After the file: a kill in between costs one fetch, and never leaves a record of what is not there.
    record = MirroredFile(identity_of(file), Learned(stream.bytes_read, stream.sha256))
    store.put(mirrored_path(file), record.sealed())
    return Counters(input_bytes=stream.bytes_read)


def mirrored(store: Store, file: LockedFile) -> Learned | None:
    """What the mirror has of a file: None unless its record is of this very file and the object has its size."""
    try:
        record = MirroredFile.read(store, mirrored_path(file))
    except (FileNotFoundError, BambaError):
        return None
    stored = store.stat(stored_name(file.key))
    is_whole = stored is not None and stored.size_bytes == record.learned.size_bytes
    return record.learned if is_whole and record.identity == identity_of(file) else None


def _finish(request: str, lock: Lock, left_out: set[str], store: Store) -> Lock:
    files = []
    for file in lock.files:
        if file.key in left_out:
            files.append(LockedFile(file.source, file.path, file.url, NOT_ASKED))
            continue
        learned = mirrored(store, file)
        if learned is None:
            raise Unfinished(f"{store.url}: {file.key} is not in the mirror yet; run the same command again")
        facts = file.facts._replace(sha256=learned.sha256, size_bytes=learned.size_bytes)
        files.append(LockedFile(file.source, file.path, file.url, facts))
    complete = Lock(lock.sources, lock.revisions, tuple(files))
    write_mirror(store, request, complete)
    return complete
