"""`python -m pipelines.tokenize`: `bamba-data build`."""

import sys

from .cli import main

if __name__ == "__main__":
    main(["build", *sys.argv[1:]])
