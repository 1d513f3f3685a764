"""`bamba-data model VERB`: the trainer's own commands, and `pretrain`, which runs the trainer on a Ray cluster.

The one file of pipelines that knows the trainer; datasets are made without it.
"""

from typing import Annotated

import typer

from bamba.trainer.cli import RUNS, app
from bamba_data.cli.entry import group
from bamba_data.cli.options import Address, Data, Set

from .options import RetryStopped

__all__ = ["app", "pretrain"]

_on_ray = group()


@_on_ray.command(rich_help_panel=RUNS)
def pretrain(
    recipe: Annotated[str, typer.Option(help="A training recipe's name, or the path of a YAML file.")],
    out: Annotated[str, typer.Option(metavar="URL", help="The run: a shared path or s3://bucket/prefix.")],
    data: Data = None,
    overrides: Set = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks at most.")] = 1,
    least: Annotated[int, typer.Option(min=1, help="Fewer are not worth going on with: wait for more.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="A GPU for each rank.")] = False,
    cores: Annotated[float, typer.Option(min=0, help="CPU cores for each rank.")] = 1.0,
    address: Address = None,
    restarts: Annotated[int, typer.Option(min=-1, help="Of the group, when ranks are lost; -1: without end.")] = -1,
    retry_stopped: RetryStopped = False,
) -> None:
    """Train on a Ray cluster, on whatever ranks there are, to the end of the recipe's schedule."""
    from bamba.trainer.config import load_recipe
    from bamba_data.extras import require

    from ..ray_jobs import pretrain as training

    require("ray", "torch", extra="pretrain")
    # What is wrong with the recipe is said before a group is started.
    resolved = load_recipe(recipe, overrides or []).model_dump(mode="json")
    training.pretrain(
        recipe, resolved, out, data or [], overrides or [], ranks, least, gpu, cores, address, restarts, retry_stopped
    )


app.add_typer(_on_ray)
