"""`python -m loader.pack`: see loader/tools/pack.py."""

import sys

from bamba_data import exit_codes

from .tools.pack import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
