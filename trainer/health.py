"""`python -m trainer.health`: the command `bamba-data model health`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import health

app = alone(health)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.health"))
