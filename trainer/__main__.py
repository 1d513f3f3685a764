"""`python -m trainer`: the command `bamba-data model train`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import TrainCommand, train

app = alone(train, TrainCommand)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer"))
