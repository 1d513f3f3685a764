"""`python -m trainer.import_hf`: see trainer/hf/importing.py."""

import sys

from bamba_data import exit_codes

from .hf.importing import app

if __name__ == "__main__":
    sys.exit(exit_codes.run(app))
