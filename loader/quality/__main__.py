"""`python -m loader.quality`: see loader/quality/report.py."""

import sys

from bamba_data import exit_codes

from .report import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
