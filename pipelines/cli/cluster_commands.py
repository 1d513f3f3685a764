"""The commands for a build that runs elsewhere, and for what it did: preflight, submit, status, logs, stop."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamba_data.cli.dataset_commands import LOOK
from bamba_data.cli.entry import group
from bamba_data.cli.old_names import Command, OldName
from bamba_data.cli.options import Address, AsJson, FailFast, Interval, Out, Set
from bamba_data.errors import UserError
from bamba_data.terminal import console, print_json, printable, say

from .options import (
    JobServer,
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
    from ..observe.runs import Status

app = group()
CLUSTER = "Run on a cluster"
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A submission id, or how it begins.")]
WorkingDir = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Run the code of this checkout, not the image's.")
]


@app.command(cls=Command, rich_help_panel=CLUSTER)
def submit(
    recipe: RecipeArgument,
    out: Out,
    address: JobServer,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    limit_documents: LimitDocuments = None,
    quarantine: Quarantine = None,
    mirror: Mirror = None,
    relock: Relock = False,
    workers: Workers = None,
    fail_fast: FailFast = False,
    retry_stopped: RetryStopped = False,
    interval: Interval = 10.0,
    working_dir: WorkingDir = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log to the end of the job.")] = True,
) -> None:
    """Build on a running cluster. The same again joins the job that runs; the exit code is the build's own."""
    from bamba_data.filtering.transform_source import beside

    from ..observe.runs import Run
    from ..ray_jobs.submit import Cluster, JobFailed, Submission, arguments

    inside = working_dir / recipe if working_dir and recipe.endswith((".yaml", ".yml")) else None
    loaded, folder = load_recipe(str(inside or recipe), overrides, limit_files, limit_documents, quarantine)
    file = None if inside or not recipe.endswith((".yaml", ".yml")) else Path(recipe)
    options: list[tuple[str, Any]] = [
        ("--set", overrides),
        ("--limit-files", limit_files),
        ("--limit-documents", limit_documents),
        ("--quarantine", quarantine),
        ("--mirror", mirror),
        ("--relock", relock),
        ("--workers", workers),
        ("--fail-fast", fail_fast),
        ("--retry-stopped", retry_stopped),
        ("--interval", interval),
    ]
    run = Run.of("build", loaded, mirror, relock)
    line = arguments(file.name if file else recipe, "--out", out, options)
    place = Cluster(address)
    sources = tuple(beside(loaded, folder)) if file else ()
    submission_id, is_new = place.submit(Submission(run, out, line, file, working_dir, sources))
    say(f"{'submitted' if is_new else 'this runs already: joining'} job {submission_id}")
    if not wait:
        say(f"see bamba-data logs {submission_id} --address {address}")
        return
    if code := place.follow(submission_id, _print_log):
        raise JobFailed(submission_id, code)


@app.command(cls=Command, rich_help_panel=CLUSTER)
def logs(
    job: JobArgument,
    address: JobServer,
    follow: Annotated[bool, typer.Option("--follow", help="Go on to the end of the job.")] = False,
) -> None:
    """Print the log of a job. With --follow the exit code is the build's own."""
    from ..ray_jobs.submit import Cluster, JobFailed

    place = Cluster(address)
    submission_id = place.job(job).submission_id
    if not follow:
        _print_log(place.logs(submission_id))
    elif code := place.follow(submission_id, _print_log):
        raise JobFailed(submission_id, code)


@app.command(cls=Command, rich_help_panel=CLUSTER)
def stop(job: JobArgument, address: JobServer) -> None:
    """Stop a job. What is finished is kept: submit the same again to go on."""
    from ..ray_jobs.submit import Cluster

    place = Cluster(address)
    submission_id = place.job(job).submission_id
    place.stop(submission_id)
    say(f"told {submission_id} to stop; submit the same again to go on")


@app.command(cls=Command, rich_help_panel=LOOK)
def status(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="A dataset: its runs, from the store.")] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="A Ray cluster: its jobs, from its job server."),
        OldName("--cluster"),
    ] = None,
    as_json: AsJson = False,
    events: Annotated[bool, typer.Option("--events", help="Every event of the newest attempt.")] = False,
) -> None:
    """How the runs of a dataset stand, by their record in the store, and the jobs of a cluster."""
    if not url and not address:
        raise UserError("status takes the URL of a dataset, or --address ADDRESS, or both")
    if events and not url:
        raise UserError("--events are those of a dataset's newest attempt: give the URL of the dataset, too")
    from bamba_data.storage.store import open_store

    from ..observe import runs

    store = open_store(url) if url else None
    known = list(runs.attempts(store)) if store else []
    happened = list(runs.events(store, known[-1])) if store and events and known else []
    jobs = _jobs(address) if address else []
    if store and not jobs:  # a job that has just begun has nothing in the store yet
        runs.check_found(store, known)
    if as_json:
        import msgspec

        attempts = [{**msgspec.to_builtins(attempt), "state": attempt.state} for attempt in known]
        print_json({"attempts": attempts, "jobs": jobs, "events": happened})
        return
    for attempt in known:
        _print_attempt(attempt)
    if url and not known:
        console().print(f"{url}: no run is on record here", markup=False)
    if address and not jobs:
        console().print(f"{address}: no job of ours is known here", markup=False)
    for event in happened:
        facts = "  ".join(f"{name}={value}" for name, value in event.items() if name not in ("at", "event"))
        console().print(f"  {event['at']}  {event['event']}  {facts}", markup=False)
    for job in jobs:
        console().print(f"{job['job']}  {job['status']}  {job['out']}  {job['message']}", markup=False)


@app.command(rich_help_panel=CLUSTER)
def preflight(
    recipe: RecipeArgument,
    out: Out,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    limit_documents: LimitDocuments = None,
    quarantine: Quarantine = None,
    mirror: Mirror = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Say what a build would miss, before it starts: rights, mounts, network, quotas, credentials. Exit 2 if any."""
    import os

    from rich.markup import escape

    from ..dataset_build.mirror_file import mirrored_lock
    from ..ray_jobs import preflight as checking

    if mirror is not None and not mirror.strip():
        raise UserError("--mirror is empty: give the place of a mirror, or leave it out")
    loaded, folder = load_recipe(recipe, overrides, limit_files, limit_documents, quarantine)
    read = checking.Mirror(mirror, mirrored_lock) if mirror else None
    results = checking.check(loaded, folder.absolute(), out, address or os.environ.get("RAY_ADDRESS"), read)
    missing = sum(result.verdict == "missing" for result in results)
    if as_json:
        print_json(results)
    else:
        colours = {"ok": "green", "note": "yellow", "missing": "red"}
        for result in results:
            way_out = f"\n{'':10}→ {escape(result.way_out)}" if result.way_out else ""
            said = escape(f"{result.where}: {result.check}: {result.detail}")
            console().print(f"[{colours[result.verdict]}]{result.verdict:<8}[/]  {said}{way_out}")
        console().print(f"{missing} missing" if missing else "nothing is missing")
    if missing:
        raise typer.Exit(UserError.exit_code)


def _jobs(address: str) -> list[dict[str, Any]]:
    from ..ray_jobs.submit import Cluster, exit_code_of, explain

    return [
        {
            "job": job.submission_id,
            "run": job.metadata["bamba_run"],
            "out": job.metadata.get("out", ""),
            "status": str(job.status.value),
            "exit_code": None if job.status in ("PENDING", "RUNNING") else exit_code_of(job),
            "message": explain(job),
        }
        for job in Cluster(address).jobs()
    ]


def _print_attempt(attempt: "Status") -> None:
    from rich.markup import escape

    from bamba_data.error_budget import reasons
    from bamba_data.inspect.show import size
    from bamba_data.inspect.units import significant

    out = console()
    colour = {"complete": "green", "stop": "red", "lost": "red", "running": "cyan"}.get(attempt.state, "yellow")
    code = "" if attempt.exit_code is None else f" (exit {attempt.exit_code})"
    out.print(
        f"[bold]{escape(attempt.run)}[/]  [{colour}]{attempt.state}[/]{code}  {escape(attempt.command)}, "
        f"started {escape(attempt.started_at)}"
    )
    out.print(
        f"  {attempt.phase}: units {attempt.units_done:,}/{attempt.units_total:,}, {attempt.units_failed:,} failed, "
        f"{attempt.in_flight:,} in flight; {size(attempt.input_bytes_read)} of {size(attempt.input_bytes_total)} read; "
        f"{attempt.documents:,} documents, {attempt.tokens:,} tokens, {attempt.bad:,} bad; "
        f"{sum(attempt.retries.values()):,} retries; {significant(attempt.core_seconds / 3600)} core-hours",
        markup=False,
    )
    if attempt.left_out:
        out.print(f"  left out: {reasons(attempt.left_out)}", markup=False)
    if attempt.reason:
        out.print(f"  {attempt.reason}", markup=False)


def _print_log(text: str) -> None:
    """As the job wrote it, with its colours; other controls are shown as their codes."""
    sys.stdout.write("".join(part if _COLOUR.match(part) else printable(part) for part in _COLOUR.split(text)))
    sys.stdout.flush()
