"""`python -m pipelines.download`: the command `bamba-data download`."""

import sys

from bamba_data.cli.entry import alone

from .cli import run
from .cli.build_commands import download

app = alone(download)

if __name__ == "__main__":
    sys.exit(run(app, None, "python -m pipelines.download"))
