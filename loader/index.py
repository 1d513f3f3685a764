"""`python -m loader.index`: see loader/tools/index.py."""

import sys

from bamba_data import exit_codes

from .tools.index import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
