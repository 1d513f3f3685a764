"""The commands on a training run: train, checkpoints, memory, health."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bamba_data.cli.entry import group
from bamba_data.cli.options import AsJson, Data, Set
from bamba_data.cli.schema_command import FieldArgument, print_schema
from bamba_data.errors import UserError
from bamba_data.terminal import emit

app = group()
RUNS = "Runs"

Recipe = Annotated[str, typer.Option("--recipe", help="A recipe's name, or the path of a YAML file.")]


class TrainCommand(TyperCommand):
    """Its page of help ends with the recipes that ship and the fields that `--set` takes, read when it is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from ..config_help import epilog

        self.epilog = epilog()
        super().format_help(ctx, formatter)


@app.command(cls=TrainCommand, rich_help_panel=RUNS)
def train(
    recipe: Recipe,
    out: Annotated[
        str | None, typer.Option("--out", metavar="URL", help="The run's folder, a local path or s3://bucket/prefix.")
    ] = None,
    data: Data = None,
    overrides: Set = None,
    start_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Begin with the model of this run or checkpoint, in its shape."),
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="A local folder for metrics; the run's folder without it.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the recipe as it resolves, with defaults and --set, and end.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although the recipe changed; the checkpoint records it.")
    ] = False,
) -> None:
    """Train to the end of the recipe's schedule, from the newest checkpoint below the run's folder if there is one."""
    from torch.distributed.elastic.multiprocessing.errors import record

    from ..config import load_recipe
    from ..config_help import resolved

    urls = [f"data.urls=[{', '.join(map(repr, data))}]"] if data else []
    begun: list[str] = []
    if start_from is not None:
        from ..warm_start import overrides_of_start

        begun = overrides_of_start(start_from, overrides or [])
    loaded = load_recipe(recipe, [*(overrides or []), *urls, *begun])
    if show:
        emit(resolved(loaded).rstrip("\n"))
        return
    if not out:
        raise UserError("--out is missing or empty: the folder of the run, a local path or s3://bucket/prefix")
    # `record` writes what goes wrong to the file that torchrun reads: its report then says why.
    record(_train)(loaded, out, metrics, accept_changes)


def _train(recipe: Any, out: str, metrics: Path | None, accept_changes: bool) -> None:
    from ..data.feed import LoaderFeed
    from ..data.vocabulary import vocabulary_note
    from ..distributed.fsdp import joined
    from ..observe.messages import say
    from ..train import train

    folder = metrics or (None if "://" in out else Path(out))
    with joined(recipe.compute.context_ranks) as world:
        feed = LoaderFeed(recipe.data, world)
        if (note := vocabulary_note(recipe.model.vocab_size, feed.vocab_size())) and world.leads:
            say(note)
        if (note := feed.epoch_note()) and world.leads:
            say(note)
        train(recipe, feed, world, out, folder, accept_changes=accept_changes)


@app.command(rich_help_panel=RUNS)
def checkpoints(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, a local path or s3://bucket/prefix.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read all bytes; exit code 5 if one is damaged.")] = False,
    lifted: Annotated[
        str | None, typer.Option("--lift", metavar="NAME", help="Take the mark from this checkpoint, if it is whole.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a checkpoint.")] = False,
) -> None:
    """List a run's checkpoints and how they stand, verify them, or lift the mark of one."""
    from ..checkpoint.listing import print_checkpoints

    print_checkpoints(run, verify=verify, lifted=lifted, as_json=as_json)


@app.command(rich_help_panel=RUNS)
def schema(field: FieldArgument = None, as_json: AsJson = False) -> None:
    """Print what a training recipe can say: every field with its type, default and meaning, as --set takes it."""
    from .. import config

    print_schema(config.Recipe, Path(config.__file__).parent / "recipe_fields.yaml", field, as_json)


@app.command(rich_help_panel=RUNS)
def memory(
    recipe: Recipe,
    ranks: Annotated[int, typer.Option(min=1, help="GPUs of the run.")] = 1,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe takes of each GPU's memory at least, by arithmetic. A run takes more."""
    from dataclasses import asdict

    from bamba_data.terminal import console, print_json

    from ..config import load_recipe
    from ..observe.memory_estimate import GIB, minimum_need

    need = minimum_need(load_recipe(recipe, overrides or []), ranks)
    if as_json:
        print_json({**{f"{name}_bytes": count for name, count in asdict(need).items()}, "total_bytes": need.total})
        return
    parts = (
        f"{need.learner / GIB:,.1f} for weights, moments and gradients, {need.activations / GIB:,.1f} for activations"
    )
    console().print(
        f"{need.total / GIB:,.1f} GiB on each of {ranks:,} ranks at least: {parts}, {need.logits / GIB:,.1f} for logits"
    )


@app.command(rich_help_panel=RUNS)
def health() -> None:
    """Measure every rank's device, under 20 s; exit 1 and name those that are not what they should be.

    Run it by `torchrun … -m trainer.health` on the machines of a run. Each rank measures products, memory bandwidth and
    an all-reduce, and asks NVML for ECC errors and throttling. A rank 10 % below the median fails.
    """
    from ..observe.health import all_healthy

    if not all_healthy():
        raise typer.Exit(1)
