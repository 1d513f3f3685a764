"""`python -m trainer.generate`: the command `bamba-data model generate`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import generate

app = alone(generate)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.generate"))
