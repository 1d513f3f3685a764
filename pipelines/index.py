"""`python -m pipelines.index`: the command `bamba-data index-on-ray`."""

import sys

from bamba_data.cli.entry import alone

from .cli import run
from .cli.index_command import index_on_ray

app = alone(index_on_ray)

if __name__ == "__main__":
    sys.exit(run(app, None, "python -m pipelines.index"))
