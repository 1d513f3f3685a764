"""`python -m pipelines.cli`: `bamba-data`, where it is not installed as a program."""

from . import main

if __name__ == "__main__":
    main()
