"""`python -m trainer.export_hf`: the command `bamba-data model export`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from .cli import export

app = alone(export)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m trainer.export_hf"))
