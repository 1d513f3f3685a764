"""The commands for a build that runs elsewhere: preflight, submit, status, logs, stop, report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamba_data.cli import AsJson, Url, app, console, print_json
from bamba_data.errors import UserError

from .options import (
    Address,
    FailFast,
    LimitDocuments,
    LimitFiles,
    Mirror,
    Out,
    Quarantine,
    RecipeArgument,
    Relock,
    RetryStopped,
    Set,
    Workers,
    load_recipe,
)

if TYPE_CHECKING:
    from .observe.runs import Status

ClusterAddress = Annotated[
    str,
    typer.Option(
        "--cluster",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="ADDRESS",
        help="The job server of a Ray cluster, such as http://127.0.0.1:8265.",
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A submission id, or how it begins.")]
WorkingDir = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Run the code of this checkout, not the image's.")
]


@app.command()
def submit(
    recipe: RecipeArgument,
    out: Out,
    cluster: ClusterAddress,
    overrides: Set = None,
    limit_files: LimitFiles = None,
    limit_documents: LimitDocuments = None,
    quarantine: Quarantine = None,
    mirror: Mirror = None,
    relock: Relock = False,
    workers: Workers = None,
    fail_fast: FailFast = False,
    retry_stopped: RetryStopped = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between progress lines.")] = 10.0,
    working_dir: WorkingDir = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log to the end of the job.")] = True,
) -> None:
    """Build on a running cluster. The same again joins the job that runs; the exit code is the build's own."""
    from .observe.runs import Run
    from .ray_jobs.submit import Cluster, JobFailed, Submission, arguments

    inside = working_dir / recipe if working_dir and recipe.endswith((".yaml", ".yml")) else None
    loaded, _ = load_recipe(str(inside or recipe), overrides, limit_files, limit_documents, quarantine)
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
    place = Cluster(cluster)
    submission_id, is_new = place.submit(Submission(run, out, line, file, working_dir))
    _say(f"{'submitted' if is_new else 'this runs already: joining'} job {submission_id}")
    if not wait:
        _say(f"see bamba-data logs {submission_id} --cluster {cluster}")
        return
    if code := place.follow(submission_id, _print_log):
        raise JobFailed(submission_id, code)


@app.command()
def logs(
    job: JobArgument,
    cluster: ClusterAddress,
    follow: Annotated[bool, typer.Option("--follow", help="Go on to the end of the job.")] = False,
) -> None:
    """Print the log of a job. With --follow the exit code is the build's own."""
    from .ray_jobs.submit import Cluster, JobFailed

    place = Cluster(cluster)
    submission_id = place.job(job).submission_id
    if not follow:
        sys.stdout.write(place.logs(submission_id))
    elif code := place.follow(submission_id, _print_log):
        raise JobFailed(submission_id, code)


@app.command()
def stop(job: JobArgument, cluster: ClusterAddress) -> None:
    """Stop a job. What is finished is kept: submit the same again to go on."""
    from .ray_jobs.submit import Cluster

    place = Cluster(cluster)
    submission_id = place.job(job).submission_id
    place.stop(submission_id)
    _say(f"told {submission_id} to stop; submit the same again to go on")


@app.command()
def status(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="A dataset: its runs, from the store.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="ADDRESS", help="A Ray cluster: its jobs, from its job server.")
    ] = None,
    as_json: AsJson = False,
    events: Annotated[bool, typer.Option("--events", help="Every event of the newest attempt.")] = False,
) -> None:
    """How the runs of a dataset stand, by their record in the store, and the jobs of a cluster."""
    if not url and not cluster:
        raise UserError("status takes the URL of a dataset, or --cluster ADDRESS, or both")
    from bamba_data.storage.store import open_store

    from .observe import runs

    store = open_store(url) if url else None
    known = list(runs.attempts(store)) if store else []
    happened = list(runs.events(store, known[-1])) if store and events and known else []
    jobs = _jobs(cluster) if cluster else []
    if as_json:
        import msgspec

        attempts = [{**msgspec.to_builtins(one), "state": one.state} for one in known]
        print_json({"attempts": attempts, "jobs": jobs, "events": happened})
        return
    for one in known:
        _print_attempt(one)
    if url and not known:
        console().print(f"{url}: no run is on record here", markup=False)
    for event in happened:
        facts = "  ".join(f"{name}={value}" for name, value in event.items() if name not in ("at", "event"))
        console().print(f"  {event['at']}  {event['event']}  {facts}", markup=False)
    for job in jobs:
        console().print(f"{job['job']}  {job['status']}  {job['out']}  {job['message']}", markup=False)


@app.command()
def preflight(
    recipe: RecipeArgument,
    out: Out,
    overrides: Set = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Say what a build would miss, before it starts: rights, mounts, network, quotas, credentials. Exit 2 if any."""
    import os

    from rich.markup import escape

    from .ray_jobs import preflight as checking

    loaded, folder = load_recipe(recipe, overrides)
    found = checking.check(loaded, folder.absolute(), out, address or os.environ.get("RAY_ADDRESS"))
    missing = sum(one.verdict == "missing" for one in found)
    if as_json:
        print_json(found)
    else:
        colours = {"ok": "green", "note": "yellow", "missing": "red"}
        for one in found:
            way_out = f"\n{'':10}→ {escape(one.way_out)}" if one.way_out else ""
            said = escape(f"{one.where}: {one.check}: {one.detail}")
            console().print(f"[{colours[one.verdict]}]{one.verdict:<8}[/]  {said}{way_out}")
        console().print(f"{missing} missing" if missing else "nothing is missing")
    if missing:
        raise typer.Exit(UserError.exit_code)


@app.command()
def report(
    url: Url,
    to: Annotated[Path, typer.Option("--to", "-o", metavar="FILE", help="Where the page goes.")] = Path("report.html"),
    price: Annotated[float | None, typer.Option("--price-per-core-hour", min=0, help="For the cost.")] = None,
    currency: Annotated[str, typer.Option(help="Of that price.")] = "$",
) -> None:
    """One HTML page: what a dataset holds, how its runs went, core-hours, bytes moved, rates, cost."""
    from .observe import report as reporting

    reporting.write(url, to, price, currency)
    console().print(f"written to {to}", markup=False)


def _jobs(address: str) -> list[dict[str, Any]]:
    from .ray_jobs.submit import Cluster, exit_code_of, explain

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


def _print_attempt(one: "Status") -> None:
    from bamba_data.inspect.show import size

    out = console()
    colour = {"complete": "green", "stop": "red", "lost": "red", "running": "cyan"}.get(one.state, "yellow")
    code = "" if one.exit_code is None else f" (exit {one.exit_code})"
    out.print(f"[bold]{one.run}[/]  [{colour}]{one.state}[/]{code}  {one.command}, started {one.started_at}")
    out.print(
        f"  {one.phase}: units {one.units_done:,}/{one.units_total:,}, {one.units_failed:,} failed, "
        f"{one.in_flight:,} in flight; {size(one.input_bytes)} of {size(one.input_bytes_total)} read; "
        f"{one.documents:,} documents, {one.tokens:,} tokens, {one.bad:,} bad; "
        f"{sum(one.retries.values()):,} retries; {one.core_seconds / 3600:,.2f} core-hours",
        markup=False,
    )
    if one.reason:
        out.print(f"  {one.reason}", markup=False)


def _print_log(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    """To stderr: stdout is the job's log."""
    sys.stderr.write(text + "\n")
