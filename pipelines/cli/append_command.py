"""The command append: a build of the inputs that a dataset does not have yet."""

import sys

from bamba_data.cli.derive_commands import DERIVE
from bamba_data.cli.entry import group
from bamba_data.cli.options import Address, FailFast, Interval, Out, Set
from bamba_data.terminal import say

from ..observe import lock_progress
from .build_commands import fetcher_of, say_prepared, say_published
from .options import LimitDocuments, LimitFiles, Quarantine, RecipeArgument, RetryStopped, Workers, load_recipe

app = group()


@app.command(rich_help_panel=DERIVE)
def append(
    recipe: RecipeArgument,
    out: Out,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    limit_documents: LimitDocuments = None,
    quarantine: Quarantine = None,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    retry_stopped: RetryStopped = False,
    interval: Interval = 10.0,
) -> None:
    """Publish a version with the inputs of a recipe that the dataset does not have yet; only these are read."""
    from bamba_data.format.fence import shared
    from bamba_data.storage.store import open_store

    from ..dataset_build import run as tokenize
    from ..dataset_build.appending import finish_append, prepare_append
    from ..observe.display import display
    from ..observe.logs import people_log
    from ..observe.prometheus import Exporting
    from ..observe.run_log import recorded
    from ..observe.runs import Run
    from ..ray_jobs.executor import Options

    is_terminal = sys.stdout.isatty()
    loaded, folder = load_recipe(recipe, overrides, limit_files, limit_documents, quarantine)
    with (
        recorded(Run.of("append", loaded, None, True), out, retry_stopped, is_terminal, interval) as journal,
        shared(open_store(out), say=say) as held,
    ):
        with lock_progress.shown(interval) as tick:
            appending = prepare_append(loaded, folder, out, fetcher_of(loaded), tick)
        for remark in appending.remarks:
            people_log().warning("%s", remark)
        prepared = appending.prepared
        if prepared is None:
            people_log().warning("nothing new: the dataset has all inputs of the recipe")
            return
        done = len(prepared.plan.units) - len(prepared.remaining())
        journal.planned(prepared.plan.digest, len(prepared.plan.units), done, prepared.plan.input_bytes)
        say_prepared(prepared, done, is_terminal)
        options = Options(address, workers, fail_fast)
        shown = journal.watching(Exporting(display("tokenize", is_terminal, interval), loaded.name, "tokenize"))
        version, manifest = tokenize.build(
            prepared, options, shown, held, lambda _, fence: finish_append(appending, fence)
        )
        journal.published(version.number, manifest)
    say_published(prepared.store.url, version, manifest, True, is_terminal)
