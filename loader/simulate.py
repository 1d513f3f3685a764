"""`python -m loader.simulate`: see loader/tools/simulate.py."""

import sys

from bamba_data import exit_codes

from .tools.simulate import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
