"""`bamba-data duplicates`, `contaminated`: which documents to drop, as Ray jobs."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from bamba_data.cli.derive_commands import DERIVE
from bamba_data.cli.entry import group
from bamba_data.cli.options import Address, AsJson, FailFast, Interval, Url, Version, in_a_folder
from bamba_data.terminal import console, print_json

from .options import Workers

app = group()
HEADS = ("task", "documents", "texts", "texts hit", "passed over", "too short")
Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="FILE", help="The list for `drop --list`, a new .parquet file.", callback=in_a_folder
    ),
]
Work = Annotated[
    str | None,
    typer.Option(
        "--work",
        metavar="URL",
        help="A folder that all machines reach, for what is finished; FILE.work without it.",
    ),
]


def _work_of(out: Path, work: str | None, on_cluster: bool) -> str:
    """Where finished work lies. Raises UserError: the list cannot be written at `out`, or the work cannot be shared."""
    from bamba_data.errors import UserError

    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: the list is parquet, so name it .parquet")
    if out.exists():
        raise UserError(f"--out {out}: is there already; remove it, or name another")
    if on_cluster and work is None:
        raise UserError("--work is missing: name a folder that all machines of the cluster reach")
    return work or f"{out.absolute()}.work"


@app.command(rich_help_panel=DERIVE)
def duplicates(
    url: Url,
    out: Out,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="Look at these sources, the first keeps its documents; all by name without it.",
        ),
    ] = None,
    work: Work = None,
    version: Version = None,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    interval: Interval = 10.0,
    as_json: AsJson = False,
) -> None:
    """List the documents whose tokens an earlier one has, in any source. Killed, the same command goes on."""
    from bamba_data.clean.duplicates import duplicates_job
    from bamba_data.extras import require
    from bamba_data.format.dataset import open_dataset

    from ..observe.display import Display, display
    from ..ray_jobs.duplicates import find_duplicates
    from ..ray_jobs.executor import Options

    require("ray")
    options = Options(address, workers, fail_fast)
    place = _work_of(out, work, bool(options.cluster))
    shown = Display() if as_json else display("duplicates", sys.stdout.isatty(), interval)
    job = duplicates_job(open_dataset(url, version), sources or [], place)
    found = find_duplicates(job, out, options, shown)
    if as_json:
        print_json({"documents": found.documents, "by_source": found.by_source})
    else:
        _print_list(out, found.by_source, "no two documents have the same tokens")


def _print_list(out: Path, by_source: Mapping[str, int], nothing: str) -> None:
    """How many documents are listed, or why none is."""
    if not any(by_source.values()):
        console().print(f"{nothing}; no list was written", markup=False)
        return
    each = ", ".join(f"{name} {documents:,}" for name, documents in by_source.items())
    console().print(f"{out}: {sum(by_source.values()):,} documents ({each})", markup=False)


@app.command(rich_help_panel=DERIVE)
def contaminated(
    url: Url,
    against: Annotated[
        list[Path],
        typer.Option(
            "--against",
            metavar="FILE",
            help="Texts of evaluations, .jsonl or .parquet: field text, and task or not. Can be given again.",
        ),
    ],
    out: Out,
    rule: Annotated[
        str,
        typer.Option(metavar="RULE", help="gpt3: 13 tokens in a row; olmo: a whole paragraph of 13 words or more."),
    ] = "gpt3",
    common_documents: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="Of gpt3: pass over an n-gram that more documents have. 10."),
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--source", metavar="NAME", help="Look at these sources; at all without it.")
    ] = None,
    work: Work = None,
    version: Version = None,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    interval: Interval = 10.0,
    as_json: AsJson = False,
) -> None:
    """List the documents that hold texts of evaluations, by a rule of GPT-3 or OLMo. Killed, the same command goes on.

    `bamba-data model suite-texts` writes the texts of a suite as FILE.
    """
    from bamba_data.clean.contaminated import RULES, contaminated_job
    from bamba_data.clean.evaluation_texts import read_texts
    from bamba_data.errors import UserError
    from bamba_data.extras import require
    from bamba_data.format.dataset import open_dataset

    from ..observe.display import Display, display
    from ..ray_jobs.contaminated import find_contaminated
    from ..ray_jobs.executor import Options

    chosen = next((known for known in RULES if known == rule), None)
    if chosen is None:
        raise UserError(f"--rule {rule}: it can be {', '.join(RULES)}")
    require("ray")
    options = Options(address, workers, fail_fast)
    place = _work_of(out, work, bool(options.cluster))
    shown = Display() if as_json else display("contaminated", sys.stdout.isatty(), interval)
    dataset, texts = open_dataset(url, version), read_texts(against)
    job = contaminated_job(dataset, texts, place, sources or [], common_documents, rule=chosen)
    found = find_contaminated(job, out, options, shown)
    if as_json:
        print_json({"documents": found.documents, "by_source": found.by_source, "by_task": found.by_task})
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(*HEADS, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for task, of in found.by_task.items():
        numbers = (of.documents, of.texts, of.hit, of.passed_over, of.short)
        table.add_row(escape(task), *(f"{number:,}" for number in numbers))
    console().print(table)
    _print_list(out, found.by_source, "no document is listed")
