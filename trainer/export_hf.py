"""`python -m trainer.export_hf`: see trainer/hf/export.py."""

import sys

from bamba_data import exit_codes

from .hf.export import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
