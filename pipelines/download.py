"""`python -m pipelines.download`: `bamba-data download`."""

import sys

from .cli import main

if __name__ == "__main__":
    main(["download", *sys.argv[1:]])
