"""`python -m pipelines.tokenize`: the command `bamba-data build`."""

import sys

from bamba_data.cli.entry import alone

from .cli import run
from .cli.build_commands import build

app = alone(build)

if __name__ == "__main__":
    sys.exit(run(app, None, "python -m pipelines.tokenize"))
