"""`python -m loader.pack`: the command `bamba-data loader pack`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import pack

app = alone(pack)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m loader.pack"))
