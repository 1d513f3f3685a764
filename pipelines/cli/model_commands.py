"""`bamba-data model VERB`: the trainer's own commands, and `pretrain` and `judge`, which run it on a Ray cluster.

The one file of pipelines that knows the trainer; datasets are made without it.
"""

import sys
from typing import Annotated

import typer

from bamba.trainer.cli import RUNS, app
from bamba.trainer.cli.benchmark_options import (
    Batch,
    Checkpoints,
    Eos,
    Every,
    Plot,
    Questions,
    Results,
    SuiteName,
    TableFile,
    show_numbers,
    suite_to_ask,
)
from bamba.trainer.cli.model_commands import MODELS, TokenizerFile
from bamba_data.cli.entry import group
from bamba_data.cli.options import Address, AsJson, Data, FailFast, Interval, Set

from .options import RetryStopped, Workers

__all__ = ["app", "judge", "pretrain"]

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


@_on_ray.command(rich_help_panel=MODELS)
def judge(
    checkpoints: Checkpoints,
    suite: SuiteName,
    out: Results,
    every: Every = False,
    tokenizer: TokenizerFile = None,
    batch: Batch = 32,
    questions: Questions = None,
    eos: Eos = None,
    gpus: Annotated[float, typer.Option(min=0, help="Of each task; 0.5 lets two share one, 0 is a CPU's work.")] = 0,
    cores: Annotated[float, typer.Option(min=0, help="CPU cores of each task.")] = 1.0,
    plot: Plot = None,
    table_file: TableFile = None,
    address: Address = None,
    workers: Workers = None,
    fail_fast: FailFast = False,
    interval: Interval = 10.0,
    as_json: AsJson = False,
) -> None:
    """What `benchmark` computes, as a Ray job: a task for each subtask of each checkpoint. Killed, it goes on."""
    from bamba_data.extras import require

    asked = suite_to_ask(suite, plot)
    require("ray", "torch", extra="pretrain")
    from bamba.trainer.checkpoint.reader import SavedCheckpoint
    from bamba.trainer.checkpoint.tokenizer import of_checkpoint
    from bamba.trainer.tasks.comparison import checkpoints_of
    from bamba.trainer.tasks.job import benchmark_job

    from ..observe.display import Display, display
    from ..ray_jobs import benchmark
    from ..ray_jobs.connection import refuse_relative
    from ..ray_jobs.executor import Options

    options = Options(address, workers, fail_fast)
    urls = checkpoints_of(checkpoints, every=every)
    if options.cluster:
        for option, place in [("--out", out), *(("CHECKPOINT", url) for url in urls)]:
            refuse_relative(option, place)
    saved = [SavedCheckpoint(url) for url in urls]
    read = [(one, of_checkpoint(one, tokenizer).with_tokens(None, eos)) for one in saved]
    shown = Display() if as_json else display("judge", sys.stdout.isatty(), interval)
    resources = {"num_cpus": cores, "num_gpus": gpus}
    job = benchmark_job(read, asked, out, batch, questions)
    benchmark.judge(job, resources, options, shown)
    show_numbers(job.numbers(asked), suite, plot, table_file, as_json=as_json)


app.add_typer(_on_ray)
