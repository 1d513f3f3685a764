"""What the two ways to ask checkpoints a suite share, here and as a Ray job: options, and how numbers are shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bamba_data.cli.options import in_a_folder

if TYPE_CHECKING:
    from ..tasks.comparison import Numbers
    from ..tasks.suites import Suite

Checkpoints = Annotated[
    list[str], typer.Argument(metavar="CHECKPOINT", help="Runs, or checkpoints of them; of a run the newest.")
]
SuiteName = Annotated[
    str,
    typer.Option("--suite", metavar="NAME|FILE", help="leaderboard-v1, leaderboard-v2, safety, or a file of tasks."),
]
Results = Annotated[
    str, typer.Option("--out", metavar="URL", help="Results by subtask; what is there is not computed again.")
]
Every = Annotated[bool, typer.Option("--every-checkpoint", help="Of each run all checkpoints, the oldest first.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="So many sequences at once.")]
Questions = Annotated[int | None, typer.Option("--questions", min=1, help="So many of each subtask, not all.")]
Eos = Annotated[str | None, typer.Option("--eos", help="The token that ends a document; as in training without it.")]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="The numbers over the steps: .png, .svg or .pdf.", callback=in_a_folder
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="A line for each checkpoint and task.", callback=in_a_folder),
]


def suite_to_ask(name: str, plot: Path | None) -> "Suite":
    """The suite, when all that asking it needs is installed; what cannot be is refused before hours of work."""
    from bamba_data.extras import require

    from ..pictures import refuse_picture
    from ..tasks.suites import suite_of

    suite = suite_of(name)
    if plot is not None:
        require("matplotlib")
        refuse_picture(plot)
    require(*suite.packages)
    return suite


def show_numbers(
    found: "Sequence[Numbers]", suite: str, plot: Path | None, table_file: Path | None, *, as_json: bool
) -> None:
    """Print a table or JSON, and write the picture and the file that were asked for."""
    from bamba_data.terminal import emit, print_json

    from ..tasks.comparison import draw, table, write_csv

    if plot is not None:
        draw(found, suite, plot)
    if table_file is not None:
        write_csv(found, table_file)
    if as_json:
        print_json(found)
    else:
        emit(table(found))
