"""`python -m trainer.import_hf`: the command `bamba-data model import`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import import_

app = alone(import_)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.import_hf"))
