"""`bamba-data model VERB`: what is done to runs and models. Each command is `python -m trainer.…` as well.

    run_commands.py      train, checkpoints, memory, health: a run, from its first second to its checkpoints
    text_commands.py     generate, chat: what a checkpoint writes
    model_commands.py    evaluate, export, import: the model of a checkpoint; arithmetic: of any shape

In: words that a person typed. Out: what the command prints, and an exit code (bamba_data/exit_codes.py). Torch is
imported when a command runs, never for a page of help. Under `torchrun` each command runs on all ranks.
"""

from bamba_data.cli.entry import group

from .model_commands import app as models
from .model_commands import benchmark, evaluate, export, import_
from .run_commands import RUNS, TrainCommand, checkpoints, health, train
from .run_commands import app as runs
from .text_commands import app as texts
from .text_commands import generate

__all__ = [
    "RUNS",
    "TrainCommand",
    "app",
    "benchmark",
    "checkpoints",
    "evaluate",
    "export",
    "generate",
    "health",
    "import_",
    "train",
]

app = group(
    help="Runs and models: train, evaluate, generate, chat, export, import, checkpoints, health, memory, arithmetic."
)
app.add_typer(runs)
app.add_typer(texts)
app.add_typer(models)
