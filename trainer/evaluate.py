"""`python -m trainer.evaluate`: the command `bamba-data model evaluate`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import evaluate

app = alone(evaluate)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.evaluate"))
