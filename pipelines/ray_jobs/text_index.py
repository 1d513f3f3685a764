"""The index of text sources as a Ray job: each file of a recipe read once, by whatever worker is free.

    python -m pipelines.index RECIPE --index URL            where `bamba-data index` would take one machine too long

Loaders then read the recipe's parquet as it is (docs/text_sources.md). The index is the one that a single process
makes, byte for byte. Killed or stopped, the same command goes on with the files that are not done.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from bamba.loader.text.index_build import IndexFiles, make_index
from bamba.loader.text.index_format import IndexedFile
from bamba.loader.text.index_job import IndexJob, finished_file, index_file
from bamba.loader.text.spec import text_sources
from bamba_data.errors import Unfinished
from bamba_data.recipe import Network, Recipe, named
from bamba_data.resources import unit_memory_bytes
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.storage.locked_file import LockedFile

from ..observe.counters import Counters
from ..observe.display import Display, display
from ..options import RECIPES, Address, FailFast, Interval, RecipeArgument, Workers
from .connection import refuse_relative
from .executor import Options
from .file_tasks import FileTask, for_each_file
from .worker import make_fetcher

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def index(
    recipe: RecipeArgument,
    at: Annotated[str, typer.Option("--index", metavar="URL", help="A shared folder, or s3://bucket/prefix.")],
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    interval: Interval = 10.0,
) -> None:
    """Read every file of the recipe's sources once and write down how many tokens each document and block has."""
    refuse_relative("--index", at)
    options = Options(address, workers, fail_fast)
    for source in text_sources(named(recipe, RECIPES), at):
        each = on_cluster(options, display("index", sys.stdout.isatty(), interval), source.recipe)
        made = make_index(source, at, Fetcher(), each)
        typer.echo(f"{source.name}: {made.summary}")


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


def main() -> None:
    from ..cli import run

    sys.exit(run(app))
