"""`python -m trainer.checkpoints`: the command `bamba-data model checkpoints`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import checkpoints

app = alone(checkpoints)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.checkpoints"))
