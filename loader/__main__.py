"""`python -m loader`: the commands `bamba-data loader`."""

import sys

from bamba_data import exit_codes

from .cli import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app, program="python -m loader"))
