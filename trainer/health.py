"""`python -m trainer.health`: see trainer/observe/health.py."""

import sys

from bamba_data import exit_codes

from .observe.health import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
