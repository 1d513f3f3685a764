"""The index of text sources as a Ray job: each file of a recipe read once, by whatever worker is free.

    python -m pipelines.index RECIPE --out URL            where `bamba-data index` would take one machine too long

Loaders then read the recipe's parquet as it is (docs/text_sources.md). The index is the one that a single process
makes, byte for byte. Killed or stopped, the same command goes on with the files that are not done.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bamba.loader.text.index_build import IndexFiles, make_index
from bamba.loader.text.index_format import Index, IndexedFile
from bamba.loader.text.index_job import IndexJob, finished_file, index_file
from bamba.loader.text.spec import text_sources
from bamba_data.errors import Unfinished
from bamba_data.recipe import Network, Recipe
from bamba_data.resources import unit_memory_bytes
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.storage.locked_file import LockedFile

from ..observe.counters import Counters
from ..observe.display import Display, display
from .connection import refuse_relative
from .executor import Options
from .file_tasks import FileTask, for_each_file
from .worker import make_fetcher


def index(recipe: Path, at: str, options: Options, interval_seconds: float) -> Iterator[tuple[str, Index]]:
    """Read every file of the recipe's sources once and write down how many tokens each document and block has.

    Args:
        recipe: A YAML file.
        at: Where the index goes; every machine must reach it.
        options: Where to run.
        interval_seconds: Between progress lines, off a terminal.

    Yields:
        The name and the index of each source, as it is done.

    Raises:
        UserError: `at` is a relative path.
        Failed: Some files could not be indexed; the others are done and kept.
    """
    refuse_relative("--out", at)
    for source in text_sources(recipe, at):
        each = on_cluster(options, display("index", sys.stdout.isatty(), interval_seconds), source.recipe)
        yield source.name, make_index(source, at, Fetcher(), each)


def on_cluster(options: Options, shown: Display, recipe: Recipe) -> IndexFiles:
    """Every file a task: `make_index` takes it in place of the loop over files in one process.

    Raises:
        Failed: Some files could not be indexed; the others are done and kept.
    """

    def each(job: IndexJob, files: Sequence[LockedFile]) -> Iterator[IndexedFile]:
        def is_done(file: LockedFile) -> bool:
            return finished_file(job, file) is not None

        memory = unit_memory_bytes(recipe)
        for_each_file(files, is_done, index_one, job.fresh(), recipe.network, options, shown, task_bytes=memory)
        for file in files:
            if (indexed := finished_file(job, file)) is None:
                raise Unfinished(f"{job.at}: {file.key} is not indexed yet; run the same command again")
            yield indexed

    return each


def index_one(task: FileTask, job: IndexJob, network: Network, rate_limit: Any, progress: Any) -> Counters:
    """Runs in a worker; its result is in the store."""
    fetcher = make_fetcher(network, rate_limit, progress)
    indexed = index_file(job, task.file, fetcher, scratch_folder())
    return Counters.of(indexed.account, indexed.size_bytes)
