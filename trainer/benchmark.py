"""`python -m trainer.benchmark`: the command `bamba-data model benchmark`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import benchmark

app = alone(benchmark)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.benchmark"))
