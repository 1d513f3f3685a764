"""`python -m pipelines.pretrain`: the command `bamba-data model pretrain`."""

import sys

from bamba_data.cli.entry import alone

from .cli import run
from .cli.model_commands import pretrain

app = alone(pretrain)

if __name__ == "__main__":
    sys.exit(run(app, None, "python -m pipelines.pretrain"))
