"""`bamba-data index-on-ray`: the index of text sources as a Ray job."""

from typing import Annotated

import typer

from bamba_data.cli.entry import group
from bamba_data.cli.old_names import Command, OldName
from bamba_data.cli.options import Address, FailFast, Interval
from bamba_data.terminal import emit

from .build_commands import MAKE
from .options import RECIPES, RecipeArgument, Workers

app = group()


@app.command("index-on-ray", cls=Command, rich_help_panel=MAKE)
def index_on_ray(
    recipe: RecipeArgument,
    out: Annotated[
        str, typer.Option("--out", metavar="URL", help="A shared folder, or s3://bucket/prefix."), OldName("--index")
    ],
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    interval: Interval = 10.0,
) -> None:
    """Index the text sources of a recipe as a Ray job, where `index` would take one machine too long."""
    from bamba_data.extras import require
    from bamba_data.recipe import named

    from ..ray_jobs.executor import Options
    from ..ray_jobs.text_index import index

    require("ray")
    for name, made in index(named(recipe, RECIPES), out, Options(address, workers, fail_fast), interval):
        emit(f"{name}: {made.summary}")
