"""`python -m pipelines`: the command `bamba-data`."""

from .cli import main

if __name__ == "__main__":
    main()
