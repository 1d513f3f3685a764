"""`bamba-data duplicates`: which documents to drop, as a Ray job."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bamba_data.cli.derive_commands import DERIVE
from bamba_data.cli.entry import group
from bamba_data.cli.options import Address, AsJson, FailFast, Interval, Url, Version
from bamba_data.terminal import console, print_json

from .options import Workers

app = group()


@app.command(rich_help_panel=DERIVE)
def duplicates(
    url: Url,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The list for `drop --list`, a new .parquet file.")
    ],
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="Look at these sources, the first keeps its documents; all by name without it.",
        ),
    ] = None,
    work: Annotated[
        str | None,
        typer.Option(
            "--work",
            metavar="URL",
            help="A folder that all machines reach, for what is finished; FILE.work without it.",
        ),
    ] = None,
    version: Version = None,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    interval: Interval = 10.0,
    as_json: AsJson = False,
) -> None:
    """List the documents whose tokens an earlier one has, in any source. Killed, the same command goes on."""
    from bamba_data.clean.duplicates import duplicates_job
    from bamba_data.errors import UserError
    from bamba_data.extras import require
    from bamba_data.format.dataset import open_dataset

    from ..observe.display import Display, display
    from ..ray_jobs.duplicates import find_duplicates
    from ..ray_jobs.executor import Options

    require("ray")
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: the list is parquet, so name it .parquet")
    if out.exists():
        raise UserError(f"--out {out}: is there already; remove it, or name another")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: its folder is not there; make it first")
    options = Options(address, workers, fail_fast)
    if options.cluster and work is None:
        raise UserError("--work is missing: name a folder that all machines of the cluster reach")

    shown = Display() if as_json else display("duplicates", sys.stdout.isatty(), interval)
    job = duplicates_job(open_dataset(url, version), sources or [], work or f"{out.absolute()}.work")
    found = find_duplicates(job, out, options, shown)
    if as_json:
        print_json({"documents": found.documents, "by_source": found.by_source})
    elif not found.documents:
        console().print("no two documents have the same tokens; no list was written", markup=False)
    else:
        each = ", ".join(f"{name} {documents:,}" for name, documents in found.by_source.items())
        console().print(f"{out}: {found.documents:,} documents ({each})", markup=False)
