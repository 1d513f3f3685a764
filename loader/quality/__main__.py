"""`python -m loader.quality`: the command `bamba-data loader quality`."""

import sys

from bamba_data import exit_codes
from bamba_data.cli.entry import alone

from ..cli import quality

app = alone(quality)

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m loader.quality"))
