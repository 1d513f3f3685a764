"""`python -m loader.index`: the command `bamba-data index`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import index

app = alone(index)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m loader.index"))
