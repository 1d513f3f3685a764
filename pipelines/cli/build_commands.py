"""The commands that make a dataset, recipes, lock, plan, build, download, index.

They import what they need when they run: the page of help needs neither ray nor numpy.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamba.loader.cli import index
from bamba_data.cli.entry import group
from bamba_data.cli.old_names import Command, OldName
from bamba_data.cli.options import Address, AsJson, FailFast, Interval, Out, Set
from bamba_data.terminal import console, print_json, say

from ..observe import lock_progress
from .options import (
    RECIPES,
    LimitDocuments,
    LimitFiles,
    Mirror,
    Quarantine,
    RecipeArgument,
    Relock,
    RetryStopped,
    Workers,
    load_recipe,
)

if TYPE_CHECKING:
    from bamba_data.format.manifest import Manifest
    from bamba_data.format.versions import Version
    from bamba_data.recipe import Recipe

    from ..dataset_build.driver import Prepared
    from ..dataset_build.plan import Plan

app = group()
MAKE = "Make a dataset"

Mirrored = Annotated[
    str, typer.Option("--out", metavar="URL", help="The mirror: a path or s3://bucket/prefix."), OldName("--to")
]


@app.command(rich_help_panel=MAKE)
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship with us."""
    from rich.markup import escape

    about = {path.stem: _first_comment(path) for path in sorted(RECIPES.glob("*.yaml"))}
    if as_json:
        print_json(about)
    else:
        for name, text in about.items():
            console().print(f"[bold]{name}[/]  {escape(text)}")


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()


@app.command(rich_help_panel=MAKE)
def lock(
    recipe: RecipeArgument,
    out: Out,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    mirror: Mirror = None,
    relock: Relock = False,
    as_json: AsJson = False,
) -> None:
    """Resolve every input of a recipe once and freeze it in the dataset: commits, sizes, sha256s, etags."""
    from rich.markup import escape

    from bamba_data.format.fence import shared
    from bamba_data.inspect.show import size
    from bamba_data.storage.store import open_store

    from ..dataset_build.frozen_lock import frozen_lock

    loaded, folder = load_recipe(recipe, overrides, limit_files)
    store = open_store(out)
    with shared(store, say=say), lock_progress.shown() as tick:
        frozen = frozen_lock(loaded, folder, store, fetcher_of(loaded), mirror, relock, tick)
    if as_json:
        print_json(frozen.lock.to_json())
        return
    for name, files in frozen.lock.by_source.items():
        total = sum(file.facts.size_bytes or 0 for file in files)
        known = sum(file.facts.sha256 is not None for file in files)
        commit = f", commit {frozen.lock.revisions[name]}" if name in frozen.lock.revisions else ""
        console().print(f"{name}: {len(files):,} files, {size(total)}, {known:,} with a known sha256{commit}")
    if frozen.remark:
        console().print(f"[yellow]{escape(frozen.remark)}")
    console().print(f"lock {frozen.digest}")


@app.command(rich_help_panel=MAKE)
def plan(
    recipe: RecipeArgument,
    out: Out,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    limit_documents: LimitDocuments = None,
    quarantine: Quarantine = None,
    mirror: Mirror = None,
    relock: Relock = False,
    as_json: AsJson = False,
) -> None:
    """Say what a build would read, write and roughly cost; nothing but the lock is written."""
    from rich.markup import escape

    from bamba_data.format.fence import shared
    from bamba_data.locking.lock import load_tokenizer
    from bamba_data.storage.store import open_store

    from ..dataset_build import plan as plans
    from ..dataset_build.frozen_lock import frozen_lock
    from ..dataset_build.reuse import taken_over

    loaded, folder = load_recipe(recipe, overrides, limit_files, limit_documents, quarantine)
    fetcher, store = fetcher_of(loaded), open_store(out)
    tokenizer = load_tokenizer(loaded, folder, fetcher)
    tokenizer.check(loaded.tokenizer.backend)
    with shared(store, say=say), lock_progress.shown() as tick:
        frozen = frozen_lock(loaded, folder, store, fetcher, mirror, relock, tick)
    made, done = taken_over(plans.make(loaded, frozen.lock, tokenizer.sha256), store)
    if as_json:
        units = [
            {
                "name": u.name,
                "key": u.key,
                "size_bytes": u.size_bytes,
                "files": [f.locked.key for f in u.files],
            }
            for u in made.units
        ]
        fields = {"digest": made.digest, "estimate": made.estimate(), "finished": done, "units": units}
        print_json({**fields, "inputs": frozen.remark})
    else:
        _print_plan(made, done)
        if frozen.remark:
            console().print(f"[yellow]{escape(frozen.remark)}")


def _print_plan(made: "Plan", done: int) -> None:
    from bamba_data.inspect.show import size

    guess = made.estimate()
    hours = guess.core_seconds / 3600
    console().print(
        f"plan {made.digest[:16]}…: {len(made.units):,} units of {len(made.lock.files):,} files, {done:,} finished\n"
        f"  reads   {size(made.input_bytes)} (about {size(guess.text_bytes)} of text)\n"
        f"  writes  about {guess.tokens / 1e6:,.1f} M tokens in {size(guess.shard_bytes)} of shards\n"
        f"  costs   about {hours:,.2f} core-hours ({guess.core_seconds:,.0f} s on one core)"
    )


@app.command(rich_help_panel=MAKE)
def build(
    recipe: RecipeArgument,
    out: Out,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    limit_documents: LimitDocuments = None,
    quarantine: Quarantine = None,
    mirror: Mirror = None,
    relock: Relock = False,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    retry_stopped: RetryStopped = False,
    interval: Interval = 10.0,
) -> None:
    """Make a dataset: lock, plan, tokenize on Ray, publish, verify. Killed or stopped, the same command goes on."""
    from bamba_data.extras import require
    from bamba_data.format.fence import shared
    from bamba_data.no_pandas import spare_pandas
    from bamba_data.storage.store import open_store

    from ..dataset_build import run as tokenize
    from ..dataset_build.driver import prepare
    from ..observe.display import display
    from ..observe.prometheus import exported
    from ..observe.run_log import recorded
    from ..observe.runs import Run
    from ..ray_jobs.executor import Options

    require("ray")  # before anything is on record
    spare_pandas()
    is_terminal = sys.stdout.isatty()
    loaded, folder = load_recipe(recipe, overrides, limit_files, limit_documents, quarantine)
    run = Run.of("build", loaded, mirror, relock)
    with (
        recorded(run, out, retry_stopped, is_terminal, interval) as journal,
        shared(open_store(out), say=say) as held,
    ):
        with lock_progress.shown(interval) as tick:
            prepared = prepare(loaded, folder, out, fetcher_of(loaded), mirror, relock, tick)
        done = len(prepared.plan.units) - len(prepared.remaining())
        journal.planned(prepared.plan.digest, len(prepared.plan.units), done, prepared.plan.input_bytes)
        say_prepared(prepared, done, is_terminal)
        options = Options(address, workers, fail_fast)
        shown = journal.watching(
            exported(display("tokenize", is_terminal, interval), loaded.name, "tokenize", options.cluster)
        )
        version, manifest = tokenize.build(prepared, options, journal.watching(shown), held)
        journal.published(version.number, manifest)
    say_published(prepared.store.url, version, manifest, version.build == prepared.build, is_terminal)


def say_prepared(prepared: "Prepared", done: int, is_terminal: bool) -> None:
    from rich.markup import escape

    from ..observe.logs import json_log

    certificate = prepared.certificate
    if is_terminal:
        _print_plan(prepared.plan, done)
        for remark in prepared.remarks:
            console().print(f"[yellow]{escape(remark)}")
        console().print(
            f"  ids by  {certificate.backend} {certificate.version}, certified on {certificate.tokens:,} tokens"
        )
    else:
        json_log().info(
            "plan",
            plan=prepared.plan.digest,
            units=len(prepared.plan.units),
            units_finished=done,
            input_bytes=prepared.plan.input_bytes,
            estimate=dataclasses.asdict(prepared.plan.estimate()),
            backend=certificate.backend,
            remarks=prepared.remarks,
        )


def say_published(url: str, version: "Version", manifest: "Manifest", is_new: bool, is_terminal: bool) -> None:
    from rich.markup import escape

    from bamba_data.error_budget import reasons
    from bamba_data.inspect.show import size

    from ..observe.logs import json_log

    if is_terminal:
        stored = sum(source.size_bytes for source in manifest.sources)
        left_out = f"; left out: {reasons(manifest.totals.left_out)}" if manifest.totals.left_out else ""
        did = "[green]published[/]" if is_new else "[yellow]nothing new[/], this dataset is there already:"
        console().print(
            f"{did} {escape(url)} version {version.number}: {manifest.totals.tokens:,} tokens in "
            f"{manifest.totals.kept:,} documents, {size(stored)}; verified{left_out}\n"
            f"dataset [cyan]{version.manifest}[/]\nidentity [cyan]{manifest.identity}[/]"
        )
    else:
        json_log().info(
            "verdict",
            verdict="complete",
            url=url,
            version=version.number,
            published=is_new,
            dataset=version.manifest,
            identity=manifest.identity,
            tokens=manifest.totals.tokens,
            documents=manifest.totals.kept,
            left_out=manifest.totals.left_out,
        )


@app.command(cls=Command, rich_help_panel=MAKE)
def download(
    recipe: RecipeArgument,
    out: Mirrored,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    relock: Relock = False,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    retry_stopped: RetryStopped = False,
    interval: Interval = 10.0,
) -> None:
    """Make a verified raw mirror of a recipe's inputs, from which `build --mirror` needs no other network."""
    from rich.markup import escape

    from bamba_data.extras import require
    from bamba_data.format.fence import shared
    from bamba_data.inspect.show import size
    from bamba_data.storage.store import open_store

    from ..dataset_build import mirror as mirroring
    from ..dataset_build.frozen_lock import frozen_lock
    from ..dataset_build.mirror_file import unfiltered
    from ..observe.display import display
    from ..observe.logs import json_log
    from ..observe.prometheus import exported
    from ..observe.run_log import recorded
    from ..observe.runs import Run
    from ..ray_jobs.executor import Options

    require("ray")
    is_terminal = sys.stdout.isatty()
    loaded, folder = load_recipe(recipe, overrides, limit_files)
    with recorded(Run.of("download", loaded, None, relock), out, retry_stopped, is_terminal, interval) as journal:
        store = open_store(out)
        with shared(store, say=say), lock_progress.shown(interval) as tick:
            frozen = frozen_lock(unfiltered(loaded), folder, store, fetcher_of(loaded), relock=relock, tick=tick)
        options = Options(address, workers, fail_fast)
        shown = journal.watching(
            exported(display("download", is_terminal, interval), loaded.name, "download", options.cluster)
        )
        lock = mirroring.download(loaded, folder, frozen.lock, out, options, journal.watching(shown))
    total = sum(file.facts.size_bytes or 0 for file in lock.files)
    if is_terminal:
        console().print(
            f"[green]mirrored[/] {len(lock.files):,} files, {size(total)}, at {escape(out)}, all sha256 known"
        )
    else:
        json_log().info("verdict", verdict="complete", url=out, files=len(lock.files), input_bytes=total)


app.command(cls=Command, rich_help_panel=MAKE)(index)


def fetcher_of(recipe: "Recipe") -> Any:
    from bamba_data.storage.fetch import Fetcher
    from bamba_data.storage.rate_limit import LocalBudget

    network = recipe.network
    return Fetcher(LocalBudget(network.requests_per_second, network.burst), network.retry_seconds)
