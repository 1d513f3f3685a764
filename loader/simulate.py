"""`python -m loader.simulate`: the command `bamba-data loader simulate`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import simulate

app = alone(simulate)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m loader.simulate"))
