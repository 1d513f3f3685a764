"""`python -m trainer.demo DATASET OUT`: a minute of training on a CPU, killed on the way and resumed on two ranks."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bamba_data import exit_codes
from bamba_data.cli.entry import alone


def demo(
    dataset: Annotated[str, typer.Argument(metavar="URL", help="A dataset of the tokenizer that ships with us.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of the second part.")] = 2,
) -> None:
    """Train, kill, resume, draw."""
    from .kill_resume import train_kill_resume

    if code := train_kill_resume(dataset, out, ranks):
        raise typer.Exit(code)


app = alone(demo)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.demo"))
